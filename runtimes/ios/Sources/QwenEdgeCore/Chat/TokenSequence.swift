/// A text, image placeholders included, and the digests of its images: two are the same only where both are.
struct Rendered {
    var text = ""
    var images: [String] = []

    func isSame(as other: Rendered) -> Bool { text.isSame(as: other.text) && images == other.images }

    func begins(with start: Rendered) -> Bool { text.begins(with: start.text) && images.starts(with: start.images) }
}

/// A place in the sequence to return to: its tokens, what they stand for, the state, and the logits where needed.
struct Checkpoint {
    static let start = Checkpoint(tokens: [], rendered: Rendered(), snapshot: nil, logits: nil)

    let tokens: [Int]
    let rendered: Rendered
    /// nil: the empty sequence.
    let snapshot: (any Snapshot)?
    let logits: [Float]?
}

/// What an engine has read and written, as tokens and as text.
final class TokenSequence {
    private let engine: any Engine
    private var tokens: [Int] = []
    /// The tokens as text, special ones included.
    private(set) var rendered = Rendered()
    /// The engine holds these tokens; not so after an error in the middle of a call.
    private var isInStep = true

    init(_ engine: any Engine) {
        self.engine = engine
    }

    var isEmpty: Bool { tokens.isEmpty }

    /// Whether `longer` continues what the engine holds.
    func stands(before longer: Rendered) -> Bool {
        isInStep && longer.begins(with: rendered) && !longer.text.isSame(as: rendered.text)
    }

    func reset() throws {
        try goBack(to: .start)
    }

    func goBack(to place: Checkpoint) throws {
        isInStep = false
        if let snapshot = place.snapshot { try engine.restore(snapshot) } else { try engine.reset() }
        isInStep = true
        tokens = place.tokens
        rendered = place.rendered
    }

    func mark(_ logits: [Float]? = nil) throws -> Checkpoint {
        isEmpty ? .start : Checkpoint(tokens: tokens, rendered: rendered, snapshot: try engine.snapshot(), logits: logits)
    }

    /// Prefill tokens with images among them; the sequence then stands for `whole`.
    func read(
        _ new: [Int], _ images: [SeenImage] = [], upTo whole: Rendered, _ generator: Generator
    ) throws -> [Float] {
        isInStep = false
        let logits = try generator.prefill(new, images)
        isInStep = true
        tokens += new
        rendered = whole
        return logits
    }

    /// Generate; `generate` adds what it feeds to the tokens it is given.
    func write<Result>(_ tokenizer: Tokenizer, _ generate: (inout [Int]) throws -> Result) throws -> Result {
        let read = tokens.count
        isInStep = false
        defer { rendered.text += tokenizer.decode(Array(tokens[read...]), special: true) }
        let result = try generate(&tokens)
        isInStep = true
        return result
    }
}

extension String {
    /// Swift takes different spellings of one character for equal; for tokens they are not.
    func isSame(as other: String) -> Bool {
        utf8.elementsEqual(other.utf8)
    }

    func begins(with start: String) -> Bool {
        utf8.starts(with: start.utf8)
    }

    /// What stands between the places where exactly these bytes are.
    func parts(between separator: String) -> [String] {
        let mark = Array(separator.utf8)
        guard !mark.isEmpty else { return [self] }
        var parts: [String] = []
        var rest = utf8[...]
        while let at = rest.indices.first(where: { rest[$0...].starts(with: mark) }) {
            parts.append(String(decoding: rest[..<at], as: UTF8.self))
            rest = rest[at...].dropFirst(mark.count)
        }
        return parts + [String(decoding: rest, as: UTF8.self)]
    }
}
