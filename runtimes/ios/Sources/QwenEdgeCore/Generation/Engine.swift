/// One sequence in one runtime: `forward` appends tokens to it and answers with the logits after the last one.
///
/// An engine is used by one task at a time. After a call that failed only `reset` and `restore` may follow.
public protocol Engine: AnyObject {
    /// Tokens the sequence may hold.
    var contextLength: Int { get }
    /// Length of the logits.
    var vocabSize: Int { get }
    /// Tokens that one call of the model takes at most.
    var prefillChunk: Int { get }
    /// Tokens in the sequence so far.
    var position: Int { get }
    /// What computes, for people and reports: never more than what really runs.
    var name: String { get }

    /// Append one to `prefillChunk` tokens; the logits after the last one, `vocabSize` of them.
    func forward(_ tokens: [Int]) throws -> [Float]

    /// Forget the sequence.
    func reset() throws

    /// Remember the sequence so far.
    func snapshot() throws -> any Snapshot

    /// Go back to a sequence that was remembered by this engine.
    func restore(_ snapshot: any Snapshot) throws
}

/// The state of an engine at one position; it stays good until it is dropped, whatever the engine does meanwhile.
public protocol Snapshot: Sendable {
    var position: Int { get }
}

extension Engine {
    /// Refuse tokens that the model does not know or the context cannot hold, before any state changes.
    public func check(_ tokens: [Int]) throws {
        guard (1...prefillChunk).contains(tokens.count) else {
            throw EdgeError(.engine, "\(tokens.count) tokens in one call; give 1 to \(prefillChunk)")
        }
        if let odd = tokens.first(where: { !(0..<vocabSize).contains($0) }) {
            throw EdgeError(.engine, "token id \(odd) is outside the vocabulary of \(vocabSize)")
        }
        guard position + tokens.count <= contextLength else {
            throw EdgeError(
                .contextLimit,
                "\(tokens.count) tokens after \(position) do not fit the context of \(contextLength); "
                    + "shorten the message, or start a new chat")
        }
    }
}

/// Opens the artifacts of one runtime.
public protocol EngineFactory: Sendable {
    /// The runtime's name in a manifest.
    var runtime: String { get }
    /// The version of the runtime in this app.
    var version: String { get }

    /// Open an artifact; `threads` is a wish that not every runtime has a way to hear.
    func open(_ artifact: Artifact, threads: Int?) throws -> any Engine
}

/// The runtimes that an app contains.
public struct Engines: Sendable {
    private let factories: [any EngineFactory]

    public init(_ factories: [any EngineFactory]) {
        self.factories = factories
    }

    /// Open an artifact in the runtime that its manifest names.
    public func open(_ artifact: Artifact, threads: Int? = nil) throws -> any Engine {
        try factory(for: artifact).open(artifact, threads: threads)
    }

    /// The factory for an artifact, once its runtime is known to be there and new enough.
    public func factory(for artifact: Artifact) throws -> any EngineFactory {
        let wanted = artifact.manifest.runtime
        guard let factory = factories.first(where: { $0.runtime == wanted.name }) else {
            let known = factories.map(\.runtime).joined(separator: ", ")
            throw EdgeError(.engine, "\(artifact.name) runs on \(wanted.name); this app has \(known)")
        }
        guard !isVersion(factory.version, olderThan: wanted.oldestVersion) else {
            throw EdgeError(
                .engine,
                "\(artifact.name) needs \(wanted.name) \(wanted.oldestVersion) or newer, here is \(factory.version); "
                    + "update the app or the system")
        }
        return factory
    }
}

/// Whether a version comes before another, by their leading numbers: 1.31.1+cpu is newer than 1.31.
func isVersion(_ version: String, olderThan other: String) -> Bool {
    let mine = numbers(of: version), theirs = numbers(of: other)
    for place in 0..<max(mine.count, theirs.count) {
        let (left, right) = (place < mine.count ? mine[place] : 0, place < theirs.count ? theirs[place] : 0)
        if left != right { return left < right }
    }
    return false
}

private func numbers(of version: String) -> [Int] {
    let parts = version.prefix { $0 != "+" }.split(separator: ".").map { Int($0.prefix(while: \.isNumber)) }
    return parts.prefix { $0 != nil }.compactMap { $0 }
}
