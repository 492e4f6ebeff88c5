/// A piece of a template: text to print, or the words of a tag.
enum Token: Equatable {
    case data(Text)
    case blockStart, blockEnd, printStart, printEnd
    case name(String)
    case text(Text)
    case integer(Int)
    case number(Double)
    case symbol(String)
}

/// Cuts a template into tokens as jinja2 does with `trim_blocks` and `lstrip_blocks`.
struct Lexer {
    private static let symbols = [
        "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", ".", ",", ":", "|", "(", ")",
        "[", "]", "{", "}",
    ].map { Text($0.unicodeScalars) }

    private let source: Text
    private var at = 0
    private var startsLine = true
    private var tokens: [Token] = []

    private init(_ source: String) {
        var text = Text(source.unicodeScalars).replacing(["\r", "\n"], with: ["\n"]).replacing(["\r"], with: ["\n"])
        if text.last == "\n" { text.removeLast() }
        self.source = text
    }

    static func tokens(of source: String) throws -> [Token] {
        var lexer = Lexer(source)
        while lexer.at < lexer.source.count { try lexer.readNext() }
        return lexer.tokens
    }

    private mutating func readNext() throws {
        guard let start = (at..<source.count).first(where: isTag) else {
            tokens.append(.data(Text(source[at...])))
            at = source.count
            return
        }
        let kind = source[start + 1]
        let mark = start + 2 < source.count ? source[start + 2] : " "
        append(strippedEnd(Text(source[at..<start]), kind: kind, mark: mark))
        at = start + (mark == "-" || mark == "+" ? 3 : 2)
        switch kind {
        case "#": try skipComment()
        case "{": try readTag(start: .printStart, end: .printEnd, closing: ["}", "}"])
        default: if try !readRaw() { try readTag(start: .blockStart, end: .blockEnd, closing: ["%", "}"]) }
        }
    }

    private func isTag(_ place: Int) -> Bool {
        source[place] == "{" && place + 1 < source.count && ["{", "%", "#"].contains(source[place + 1])
    }

    private mutating func append(_ data: Text) {
        if !data.isEmpty { tokens.append(.data(data)) }
    }

    /// The text before a tag, without the white space that the tag takes away.
    private func strippedEnd(_ text: Text, kind: Unicode.Scalar, mark: Unicode.Scalar) -> Text {
        if mark == "-" { return text.strippedEnd(of: nil) }
        if mark == "+" || kind == "{" { return text }
        let line = text.lastIndex(of: "\n").map { $0 + 1 } ?? 0
        let isAlone = (line > 0 || startsLine) && text[line...].allSatisfy(\.isPythonSpace)
        return isAlone ? Text(text[..<line]) : text
    }

    private mutating func skipComment() throws {
        guard let end = source.firstPlace(of: ["#", "}"], from: at) else { throw TemplateError("a comment has no end") }
        at = end + 2
        skipAfterTag(stripsAll: source[end - 1] == "-", stripsLine: source[end - 1] != "+")
    }

    /// White space after a tag that the tag takes away.
    private mutating func skipAfterTag(stripsAll: Bool, stripsLine: Bool) {
        let end = at
        while at < source.count, stripsAll ? source[at].isPythonSpace : stripsLine && at == end && source[at] == "\n" {
            at += 1
        }
        startsLine = at > end && source[at - 1] == "\n"
    }

    /// `{% raw %}` up to `{% endraw %}` is text; false where the tag is another one.
    private mutating func readRaw() throws -> Bool {
        guard let begin = tagNamed("raw", from: at) else { return false }
        var search = begin.end
        if begin.strips { search = (search..<source.count).first { !source[$0].isPythonSpace } ?? source.count }
        let from = search
        while let start = source.firstPlace(of: ["{", "%"], from: search) {
            let mark = start + 2 < source.count ? source[start + 2] : " "
            if let end = tagNamed("endraw", from: start + (mark == "-" || mark == "+" ? 3 : 2)) {
                append(strippedEnd(Text(source[from..<start]), kind: "%", mark: mark))
                at = end.end
                skipAfterTag(stripsAll: end.strips, stripsLine: true)
                return true
            }
            search = start + 2
        }
        throw TemplateError("'raw' has no 'endraw'")
    }

    private func tagNamed(_ name: String, from start: Int) -> (end: Int, strips: Bool)? {
        guard let close = source.firstPlace(of: ["%", "}"], from: start) else { return nil }
        let strips = close > start && source[close - 1] == "-"
        let inside = Text(source[start..<(strips ? close - 1 : close)]).stripped(of: nil)
        return inside == Text(name.unicodeScalars) ? (close + 2, strips) : nil
    }

    private mutating func readTag(start: Token, end: Token, closing: Text) throws {
        tokens.append(start)
        var open: [Unicode.Scalar] = []
        while true {
            while at < source.count, source[at].isPythonSpace { at += 1 }
            guard at < source.count else { throw TemplateError("a tag has no end") }
            if open.isEmpty, let strips = closes(closing) {
                tokens.append(end)
                return skipAfterTag(stripsAll: strips == "-", stripsLine: end == .blockEnd && strips != "+")
            }
            try readWord(&open)
        }
    }

    /// The mark before the end of a tag ("-", "+" or " "), where the tag ends here.
    private mutating func closes(_ closing: Text) -> Unicode.Scalar? {
        for mark: Unicode.Scalar in ["-", "+"] where source[at...].starts(with: [mark] + closing) {
            at += 3
            return mark
        }
        guard source[at...].starts(with: closing) else { return nil }
        at += 2
        return " "
    }

    private mutating func readWord(_ open: inout [Unicode.Scalar]) throws {
        let letter = source[at]
        if letter == "'" || letter == "\"" { return tokens.append(.text(try readString(quote: letter))) }
        if isDigit(letter) { return try readNumber() }
        if isNameStart(letter) { return readName() }
        guard let symbol = Self.symbols.first(where: { source[at...].starts(with: $0) }) else {
            throw TemplateError("'\(letter)' has no meaning here")
        }
        at += symbol.count
        if ["(", "[", "{"].contains(symbol[0]) { open.append(symbol[0]) }
        if [")", "]", "}"].contains(symbol[0]), open.popLast() == nil { throw TemplateError("'\(letter)' closes nothing") }
        tokens.append(.symbol(String(symbol)))
    }

    private mutating func readName() {
        let start = at
        while at < source.count, isNameStart(source[at]) || isDigit(source[at]) { at += 1 }
        tokens.append(.name(String(Text(source[start..<at]))))
    }

    private mutating func readNumber() throws {
        let start = at
        func skipDigits() { while at < source.count, isDigit(source[at]) || source[at] == "_" { at += 1 } }
        skipDigits()
        var isInteger = true
        if at + 1 < source.count, source[at] == ".", isDigit(source[at + 1]) {
            isInteger = false
            at += 1
            skipDigits()
        }
        if at < source.count, source[at] == "e" || source[at] == "E" {
            let sign = at + 1 < source.count && ["+", "-"].contains(source[at + 1]) ? 1 : 0
            if at + 1 + sign < source.count, isDigit(source[at + 1 + sign]) {
                isInteger = false
                at += 1 + sign
                skipDigits()
            }
        }
        let digits = String(Text(source[start..<at].filter { $0 != "_" }))
        if isInteger {
            guard let value = Int(digits) else { throw TemplateError("\(digits) is too large") }
            tokens.append(.integer(value))
        } else {
            tokens.append(.number(Double(digits)!))
        }
    }

    private mutating func readString(quote: Unicode.Scalar) throws -> Text {
        var found: Text = []
        at += 1
        while at < source.count, source[at] != quote {
            if source[at] == "\\" { found += try readEscape() } else { found.append(source[at]) }
            at += 1
        }
        guard at < source.count else { throw TemplateError("a text has no end") }
        at += 1
        return found
    }

    /// An escape of Python; `at` ends on its last letter.
    private mutating func readEscape() throws -> Text {
        at += 1
        guard at < source.count else { throw TemplateError("a text has no end") }
        switch source[at] {
        case "n": return ["\n"]
        case "t": return ["\t"]
        case "r": return ["\r"]
        case "\\", "'", "\"": return [source[at]]
        case "\n": return []
        case "x": return [try readCode(digits: 2)]
        case "u": return [try readCode(digits: 4)]
        case "U": return [try readCode(digits: 8)]
        default: return ["\\", source[at]]
        }
    }

    private mutating func readCode(digits: Int) throws -> Unicode.Scalar {
        let text = String(Text(source[(at + 1)...].prefix(digits)))
        guard text.utf8.count == digits, let code = UInt32(text, radix: 16), let scalar = Unicode.Scalar(code) else {
            throw TemplateError("'\\\(source[at])\(text)' is no character")
        }
        at += digits
        return scalar
    }

    private func isDigit(_ letter: Unicode.Scalar) -> Bool {
        ("0"..."9").contains(letter)
    }

    private func isNameStart(_ letter: Unicode.Scalar) -> Bool {
        letter == "_" || letter.properties.isXIDStart
    }
}
