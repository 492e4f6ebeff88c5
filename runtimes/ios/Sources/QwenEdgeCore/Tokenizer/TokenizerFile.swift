import Foundation

/// The tokenizer in a `tokenizer.json`, refused where it asks for anything but byte-level byte-pair encoding.
public func readTokenizer(_ place: URL) throws -> Tokenizer {
    do {
        var file = TokenizerFile(JSONReader(Array(try Data(contentsOf: place))))
        return try file.read()
    } catch let error as EdgeError {
        throw EdgeError(.tokenizer, "\(place.lastPathComponent): \(error.message)")
    } catch let error as JSONError {
        throw EdgeError(.tokenizer, "\(place.lastPathComponent): not JSON: \(error); import the bundle again")
    } catch {
        throw EdgeError(
            .tokenizer,
            "\(place.lastPathComponent): cannot be read (\(error.localizedDescription)); import the bundle again")
    }
}

/// Reads the file in one pass: vocabulary and merges have hundreds of thousands of entries.
private struct TokenizerFile {
    private static let mostTokens = 1 << 24

    private let json: JSONReader
    private var ids: [[UInt8]: Int] = [:]
    private var merges: [(left: [UInt8], right: [UInt8])] = []
    private var added: [AddedToken] = []
    private var model = JSONObject()
    private var normalizer: JSON = .null
    private var decoder: JSON = .null
    private var pattern: WordPattern?
    private var isByteLevel = false

    init(_ json: JSONReader) {
        self.json = json
    }

    mutating func read() throws -> Tokenizer {
        var steps: JSON = .null, tokens: JSON = .null
        try json.fields { (name) throws(JSONError) in
            switch String(decoding: name, as: UTF8.self) {
            case "added_tokens": tokens = try json.value()
            case "normalizer": normalizer = try json.value()
            case "pre_tokenizer": steps = try json.value()
            case "decoder": decoder = try json.value()
            case "model": try readModel()
            default: _ = try json.value()
            }
        }
        try json.end()
        for token in tokens.array ?? [] { added.append(try addedToken(token)) }
        try readStep(steps)
        try check()
        return try build()
    }

    private mutating func readModel() throws(JSONError) {
        try json.fields { (name) throws(JSONError) in
            switch String(decoding: name, as: UTF8.self) {
            case "vocab":
                try json.fields { (token) throws(JSONError) in ids[token] = try json.value().integer ?? -1 }
            case "merges": try json.items { () throws(JSONError) in try readMerge() }
            case let other: model[other] = try json.value()
            }
        }
    }

    /// A pair, written as a list or, by older files, as two words.
    private mutating func readMerge() throws(JSONError) {
        let value = try json.value()
        let parts = value.array?.compactMap { $0.string.map { Array($0.utf8) } }
            ?? value.string.map { $0.utf8.split(separator: UInt8(ascii: " ")).map(Array.init) } ?? []
        merges.append(parts.count == 2 ? (parts[0], parts[1]) : ([], []))
    }

    private func addedToken(_ token: JSON) throws -> AddedToken {
        guard let id = token.object?["id"]?.integer, let text = token.object?["content"]?.string, !text.isEmpty,
            let isSpecial = token.object?["special"]?.bool
        else { throw refused("an added token without id, content or special") }
        if let odd = ["lstrip", "rstrip", "single_word", "normalized"].first(where: { token.object?[$0] == true }) {
            throw refused("the added token '\(text)', which is \(odd)")
        }
        return AddedToken(id: id, text: Array(text.utf8), isSpecial: isSpecial)
    }

    private mutating func readStep(_ value: JSON) throws {
        guard let step = value.object else { throw refused("no steps that split words") }
        switch step["type"]?.string {
        case "Sequence": for inner in step["pretokenizers"]?.array ?? [] { try readStep(inner) }
        case "Split":
            guard step["behavior"] == "Isolated", step["invert"] != true,
                let source = step["pattern"]?.object?["Regex"]?.string
            else { throw refused("another way to split") }
            pattern = try WordPattern(source)
        case "ByteLevel":
            guard step["add_prefix_space"] != true, step["use_regex"] != true else {
                throw refused("bytes that are split in another way")
            }
            isByteLevel = true
        case let other: throw refused("a step of kind '\(other ?? "none")'")
        }
    }

    private func check() throws {
        guard model["type"] == "BPE" else { throw refused("a model that is not BPE") }
        let names = ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"]
        if let odd = names.first(where: { ![nil, .null, ""].contains(model[$0]) })
            ?? ["ignore_merges", "byte_fallback"].first(where: { model[$0] == true })
        {
            throw refused("'\(odd)' in its model")
        }
        let kind = normalizer.object?["type"]
        guard normalizer == .null || kind == "NFC" else { throw refused("another normalizer than NFC") }
        guard isByteLevel, decoder.object?["type"] == "ByteLevel" else { throw refused("no bytes below its tokens") }
    }

    private func build() throws -> Tokenizer {
        let all = ids.values + added.map(\.id)
        guard let largest = all.max(), largest < Self.mostTokens, all.allSatisfy({ $0 >= 0 }) else {
            throw refused("ids beyond all bounds")
        }
        var texts = [[UInt8]?](repeating: nil, count: largest + 1)
        for (text, id) in ids { texts[id] = text }
        for token in added { texts[token.id] = token.text }
        for letter in ByteLetters.letters { _ = try id(letter) }
        var pairs = BytePairs()
        for (left, right) in merges { pairs.add(try id(left), try id(right), result: try id(left + right)) }
        guard let pattern else { throw refused("no pattern that splits words") }
        return Tokenizer(texts: texts, pairs: pairs, pattern: pattern, added: added, isNormalized: normalizer != .null)
    }

    private func id(_ token: [UInt8]) throws -> Int {
        guard let id = ids[token] else {
            throw refused("no token '\(String(decoding: token, as: UTF8.self))' in its vocabulary")
        }
        return id
    }

    private func refused(_ what: String) -> EdgeError {
        EdgeError(.tokenizer, "this tokenizer has \(what), which this app cannot read; use one of Qwen3.5")
    }
}
