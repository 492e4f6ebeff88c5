import Foundation

/// A token that stands for itself in a text; a special one is left out of what a reader sees.
struct AddedToken: Sendable {
    let id: Int
    let text: [UInt8]
    let isSpecial: Bool
}

/// Text to tokens and back: byte-level byte-pair encoding, as `tokenizer.json` describes it.
///
/// Texts are handled as UTF-8: Swift's strings take different spellings of one character for equal, tokens do not.
public final class Tokenizer: Sendable {
    private let texts: [[UInt8]?]
    private let letterIds: [Int]
    private let pairs: BytePairs
    private let pattern: WordPattern
    private let added: [AddedToken]
    private let specialIds: Set<Int>
    private let isNormalized: Bool

    /// `texts` by id; the letters of all bytes are among them.
    init(texts: [[UInt8]?], pairs: BytePairs, pattern: WordPattern, added: [AddedToken], isNormalized: Bool) {
        self.texts = texts
        self.pairs = pairs
        self.pattern = pattern
        self.added = added.sorted { $0.text.count > $1.text.count }
        self.isNormalized = isNormalized
        specialIds = Set(added.filter(\.isSpecial).map(\.id))
        var ids: [[UInt8]: Int] = [:]
        for (id, text) in texts.enumerated() where (text?.count ?? 0) <= 2 { if let text { ids[text] = id } }
        letterIds = ByteLetters.letters.map { ids[$0]! }
    }

    /// Ids are below this number.
    public var vocabSize: Int { texts.count }

    /// Tokens of a text; special tokens written out in it count as such, and none is added.
    public func encode(_ text: String) -> [Int] {
        let bytes = Array(text.utf8)
        var tokens: [Int] = []
        var from = 0, at = 0
        while at < bytes.count {
            guard let token = added.first(where: { bytes[at...].starts(with: $0.text) }) else {
                at += 1
                continue
            }
            tokens += encodePlain(bytes[from..<at])
            tokens.append(token.id)
            at += token.text.count
            from = at
        }
        return tokens + encodePlain(bytes[from...])
    }

    /// The text of tokens; special tokens show only when asked for.
    public func decode(_ tokens: [Int], special: Bool = false) -> String {
        var bytes: [UInt8] = []
        for token in tokens where texts.indices.contains(token) && (special || !specialIds.contains(token)) {
            bytes += ByteLetters.bytes(of: texts[token] ?? [])
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The id of an added token by its text.
    public func addedId(_ text: String) -> Int? {
        added.first { $0.text.elementsEqual(text.utf8) }?.id
    }

    private func encodePlain(_ bytes: ArraySlice<UInt8>) -> [Int] {
        if bytes.isEmpty { return [] }
        let text = String(decoding: bytes, as: UTF8.self)
        let words = pattern.words(of: isNormalized ? text.precomposedStringWithCanonicalMapping : text)
        return words.flatMap { word in pairs.merged(word.utf8.map { letterIds[Int($0)] }) }
    }
}
