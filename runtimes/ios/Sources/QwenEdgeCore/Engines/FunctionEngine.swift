/// One sequence in a model with a function for one token and one for a chunk, cut into packages that run in a row.
///
/// Prompts go through the prefill function, padded to its length, single tokens through decode. Where a padded chunk would
/// reach beyond the context, tokens go one by one. States that the runtime does not keep are handed from call to call.
public final class FunctionEngine<Runner: FunctionRunner>: Engine {
    private struct Remembered: Snapshot {
        let owner: ObjectIdentifier
        let position: Int
        let kept: Runner.States
        let carried: [String: Runner.Tensor]
    }

    public let contextLength: Int
    public let vocabSize: Int
    public let prefillChunk: Int
    public private(set) var position = 0

    private let runner: Runner
    private let packages: [String]
    private let layout: FunctionLayout
    private var carried: [String: Runner.Tensor] = [:]
    private var isHalfWritten = false

    /// `packages` in the order in which a token goes through them.
    public init(_ runner: Runner, packages: [String], layout: FunctionLayout, manifest: Manifest) throws {
        self.runner = runner
        self.packages = packages
        self.layout = layout
        contextLength = manifest.contextLength
        vocabSize = manifest.vocabSize
        prefillChunk = manifest.prefillChunk
        try reset()
    }

    public var name: String { runner.name }

    public func forward(_ tokens: [Int]) throws -> [Float] { try read(tokens, nil) }

    /// Append tokens; `prompt` says where they stand and what images are among them, for functions that ask for it.
    func read(_ tokens: [Int], _ prompt: Prompt?) throws -> [Float] {
        try check(tokens)
        guard !isHalfWritten else {
            throw EdgeError(.engine, "the last call failed and left the state half written; start the chat anew")
        }
        var logits: [Float] = []
        var rest = tokens[...]
        while !rest.isEmpty {
            let isChunk = rest.count > 1 && position + prefillChunk <= contextLength
            let now = rest.prefix(isChunk ? prefillChunk : 1)
            let piece = prompt?.cut(now.startIndex..<now.endIndex)
            logits = try run(Array(now), piece, isLast: now.endIndex == rest.endIndex)
            rest = rest.dropFirst(now.count)
        }
        return logits
    }

    public func reset() throws {
        try runner.reset()
        carried = [:]
        for state in layout.carried { carried[state.name] = try runner.zeros(for: state) }
        position = 0
        isHalfWritten = false
    }

    public func snapshot() throws -> any Snapshot {
        Remembered(
            owner: ObjectIdentifier(self), position: position, kept: try runner.copyStates(filled: position),
            carried: carried)
    }

    public func restore(_ snapshot: any Snapshot) throws {
        guard let remembered = snapshot as? Remembered, remembered.owner == ObjectIdentifier(self) else {
            throw EdgeError(.engine, "this snapshot is of another engine; start the chat anew")
        }
        isHalfWritten = true
        try runner.write(remembered.kept)
        carried = remembered.carried
        position = remembered.position
        isHalfWritten = false
    }

    /// One call of every package; logits are read where they are wanted.
    private func run(_ tokens: [Int], _ piece: Prompt?, isLast: Bool) throws -> [Float] {
        let function = tokens.count == 1 ? layout.decode : layout.prefill
        isHalfWritten = true
        let size = tokens.count == 1 ? 1 : prefillChunk
        let padded = tokens.map(Int32.init) + [Int32](repeating: 0, count: size - tokens.count)
        var flow = ["input_ids": try runner.tensor(padded, shape: [1, size])]
        let place = try runner.tensor([Int32(position)], shape: [1])
        let length = try runner.tensor([Int32(tokens.count)], shape: [1])
        let given = ["position": place, "length": length].merging(try rows(piece, size)) { old, _ in old }
        for package in packages {
            flow.merge(given) { old, _ in old }
            let input = FunctionInput(package: package, function: function, name: Self.features)
            flow.merge(try features(piece, size, input)) { old, _ in old }
            flow = try call(package, function, flow)
        }
        guard let logits = flow["logits"] else { throw EdgeError(.engine, "the last package gives no logits; import the bundle again") }
        position += tokens.count
        isHalfWritten = false
        return isLast ? try runner.numbers(logits, last: vocabSize) : []
    }

    private static var features: String { "image_features" }

    /// Where tokens stand in time, height and width, a row each; padding stands at 0.
    private func rows(_ piece: Prompt?, _ size: Int) throws -> [String: Runner.Tensor] {
        guard let at = piece?.positions else { return [:] }
        let padding = [Int32](repeating: 0, count: size - at.time.count)
        let rows = [at.time, at.height, at.width].flatMap { $0.map(Int32.init) + padding }
        return ["position_ids": try runner.tensor(rows, shape: [3, size])]
    }

    /// Features in the places of image tokens, zeros elsewhere, where this function wants them.
    private func features(_ piece: Prompt?, _ size: Int, _ input: FunctionInput) throws -> [String: Runner.Tensor] {
        let wanted = try runner.inputNames(package: input.package, function: input.function)
        guard let piece, wanted.contains(input.name) else { return [:] }
        let shape = [1, size, piece.hiddenSize]
        return [input.name: try runner.tensor(piece.spreadFeatures(over: size), shape: shape, for: input)]
    }

    /// One package: what flows out besides states is what flows into the next.
    private func call(
        _ package: String, _ function: String, _ offered: [String: Runner.Tensor]
    ) throws -> [String: Runner.Tensor] {
        var inputs: [String: Runner.Tensor] = [:]
        let states = Dictionary(uniqueKeysWithValues: layout.carried.map { ($0.inputName!, $0.name) })
        for name in try runner.inputNames(package: package, function: function) {
            guard let value = offered[name] ?? states[name].flatMap({ carried[$0] }) else {
                throw EdgeError(.engine, "\(package): '\(function)' wants '\(name)', which nothing gives; import the bundle again")
            }
            inputs[name] = value
        }
        var outputs = try runner.call(package: package, function: function, inputs: inputs)
        for state in layout.carried {
            if let new = outputs.removeValue(forKey: state.outputName!) { carried[state.name] = new }
        }
        return outputs
    }
}
