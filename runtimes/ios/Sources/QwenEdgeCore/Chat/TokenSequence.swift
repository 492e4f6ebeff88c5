/// A place in the sequence to return to: its tokens, their text, the state, and the logits where they are needed.
struct Checkpoint {
    static let start = Checkpoint(tokens: [], text: "", snapshot: nil, logits: nil)

    let tokens: [Int]
    let text: String
    /// nil: the empty sequence.
    let snapshot: (any Snapshot)?
    let logits: [Float]?
}

/// What an engine has read and written, as tokens and as text.
final class TokenSequence {
    private let engine: any Engine
    private var tokens: [Int] = []
    /// The tokens as text, special ones included.
    private(set) var text = ""
    /// The engine holds these tokens; not so after an error in the middle of a call.
    private var isInStep = true

    init(_ engine: any Engine) {
        self.engine = engine
    }

    var isEmpty: Bool { tokens.isEmpty }

    /// Whether `longer` continues what the engine holds.
    func stands(before longer: String) -> Bool {
        isInStep && longer.begins(with: text) && !longer.isSame(as: text)
    }

    func reset() throws {
        try goBack(to: .start)
    }

    func goBack(to place: Checkpoint) throws {
        isInStep = false
        if let snapshot = place.snapshot { try engine.restore(snapshot) } else { try engine.reset() }
        isInStep = true
        tokens = place.tokens
        text = place.text
    }

    func mark(_ logits: [Float]? = nil) throws -> Checkpoint {
        isEmpty ? .start : Checkpoint(tokens: tokens, text: text, snapshot: try engine.snapshot(), logits: logits)
    }

    /// Prefill tokens; the sequence then stands for `whole`.
    func read(_ new: [Int], upTo whole: String, _ generator: Generator) throws -> [Float] {
        isInStep = false
        let logits = try generator.prefill(new)
        isInStep = true
        tokens += new
        text = whole
        return logits
    }

    /// Generate; `generate` adds what it feeds to the tokens it is given.
    func write<Result>(_ tokenizer: Tokenizer, _ generate: (inout [Int]) throws -> Result) throws -> Result {
        let read = tokens.count
        isInStep = false
        defer { text += tokenizer.decode(Array(tokens[read...]), special: true) }
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
}
