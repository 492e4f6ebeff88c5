import Foundation

/// The pattern that cuts a text into words.
///
/// Tokenizers write it for a library in which `\s` is white space of any script. Foundation's regular expressions (ICU)
/// leave some of it out, so it is written out here.
struct WordPattern: Sendable {
    private static let whiteSpace =
        "\\t-\\r \\u0085\\u00A0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000"

    private let expression: NSRegularExpression

    init(_ source: String) throws {
        do {
            expression = try NSRegularExpression(pattern: try Self.translated(source))
        } catch let error as EdgeError {
            throw error
        } catch {
            throw EdgeError(.tokenizer, "the tokenizer's pattern cannot be read: \(source.prefix(200))")
        }
    }

    /// The words of a text: what the pattern matches, and what lies between.
    func words(of text: String) -> [String] {
        let units = Array(text.utf16)
        var words: [String] = []
        var from = 0
        for match in expression.matches(in: text, range: NSRange(location: 0, length: units.count)) {
            let range = match.range
            guard range.length > 0 else { continue }
            words.append(String(decoding: units[from..<range.location], as: UTF16.self))
            words.append(String(decoding: units[range.location..<range.location + range.length], as: UTF16.self))
            from = range.location + range.length
        }
        words.append(String(decoding: units[from...], as: UTF16.self))
        return words.filter { !$0.isEmpty }
    }

    private static func translated(_ source: String) throws -> String {
        var translated = ""
        var inClass = false
        var letters = source.makeIterator()
        while let letter = letters.next() {
            guard letter == "\\" else {
                if letter == "[" { inClass = true }
                if letter == "]" { inClass = false }
                translated.append(letter)
                continue
            }
            switch letters.next() {
            case "s": translated += inClass ? whiteSpace : "[\(whiteSpace)]"
            case "S" where inClass:
                throw EdgeError(.tokenizer, "the tokenizer's pattern has \\S in a class, which this app cannot read")
            case "S": translated += "[^\(whiteSpace)]"
            case let other?: translated += "\\\(other)"
            case nil: translated += "\\"
            }
        }
        return translated
    }
}
