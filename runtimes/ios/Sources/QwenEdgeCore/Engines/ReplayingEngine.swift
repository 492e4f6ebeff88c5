/// What runs a chunk of tokens after others; its state cannot be reached, but is forgotten at position 0.
public protocol TokenRunner: AnyObject {
    var name: String { get }

    /// The logits after the last of these tokens, `position` of which came before.
    func run(_ tokens: [Int], after position: Int) throws -> [Float]
}

/// One sequence in a runtime that neither hands out its state nor takes it back, such as ExecuTorch from Swift.
///
/// Going back to a snapshot means reading its tokens again; it happens when the next token comes.
public final class ReplayingEngine: Engine {
    private struct Remembered: Snapshot {
        let owner: ObjectIdentifier
        let tokens: [Int]
        var position: Int { tokens.count }
    }

    public let contextLength: Int
    public let vocabSize: Int
    public let prefillChunk: Int

    private let runner: any TokenRunner
    private var tokens: [Int] = []
    private var held = 0  // so many of the tokens are in the runtime's state

    public init(_ runner: any TokenRunner, manifest: Manifest) {
        self.runner = runner
        contextLength = manifest.contextLength
        vocabSize = manifest.vocabSize
        prefillChunk = manifest.prefillChunk
    }

    public var name: String { runner.name }
    public var position: Int { tokens.count }

    public func forward(_ new: [Int]) throws -> [Float] {
        try check(new)
        while held < tokens.count {
            let chunk = Array(tokens[held..<min(held + prefillChunk, tokens.count)])
            _ = try run(chunk)
        }
        let logits = try run(new)
        tokens += new
        return logits
    }

    public func reset() {
        tokens = []
        held = 0
    }

    public func snapshot() -> any Snapshot {
        Remembered(owner: ObjectIdentifier(self), tokens: tokens)
    }

    public func restore(_ snapshot: any Snapshot) throws {
        guard let remembered = snapshot as? Remembered, remembered.owner == ObjectIdentifier(self) else {
            throw EdgeError(.engine, "this snapshot is of another engine; start the chat anew")
        }
        held = held == tokens.count && tokens == remembered.tokens ? held : 0
        tokens = remembered.tokens
    }

    /// A call that fails leaves the runtime's state unknown, so everything is read again.
    private func run(_ chunk: [Int]) throws -> [Float] {
        let position = held
        held = 0
        let logits = try runner.run(chunk, after: position)
        guard logits.count == vocabSize else {
            throw EdgeError(.engine, "the model gave \(logits.count) logits, the manifest says \(vocabSize)")
        }
        held = position + chunk.count
        return logits
    }
}
