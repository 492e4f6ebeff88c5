/// One sequence of tokens and images: a text model whose functions ask for positions and features, and a tower beside it.
public final class SeeingFunctionEngine<Runner: FunctionRunner>: SeeingEngine {
    private struct Remembered: Snapshot {
        let state: any Snapshot
        let lag: Int
        var position: Int { state.position }
    }

    public let vision: VisionPart
    private let text: FunctionEngine<Runner>
    private let encode: (PatchedImage) throws -> [Float]
    /// By how much positions are behind places in the sequence.
    private var lag = 0

    /// `encode` runs the tower on an image: a row of features for each of its tokens.
    public init(
        _ text: FunctionEngine<Runner>, _ vision: VisionPart, encode: @escaping (PatchedImage) throws -> [Float]
    ) {
        self.text = text
        self.vision = vision
        self.encode = encode
    }

    public var contextLength: Int { text.contextLength }
    public var vocabSize: Int { text.vocabSize }
    public var prefillChunk: Int { text.prefillChunk }
    public var position: Int { text.position }
    public var name: String { text.name }
    public var nextPosition: Int { position - lag }

    public func see(_ image: PatchedImage) throws -> SeenImage {
        let grid = image.tokenGrid
        guard vision.images.grids.isEmpty || vision.images.grids.contains(grid) else {
            throw EdgeError(.image, "an image of \(grid.height) x \(grid.width) tokens is none that this model's tower takes")
        }
        let features = try encode(image)
        guard features.count == grid.tokens * vision.hiddenSize else {
            throw EdgeError(
                .engine, "the tower gave \(features.count) numbers for \(grid.tokens) tokens; import the bundle again")
        }
        return SeenImage(features: features, grid: grid, digest: image.digest)
    }

    public func forward(_ tokens: [Int]) throws -> [Float] {
        guard !tokens.contains(vision.imageTokenId) else {
            throw EdgeError(.image, "image tokens without an image")
        }
        return try text.read(tokens, Prompt(tokens, [], for: self))
    }

    public func forward(_ prompt: Prompt) throws -> [Float] {
        let next = max(nextPosition, prompt.positions.next)
        let logits = try text.read(prompt.tokens, prompt)
        lag = position - next
        return logits
    }

    public func reset() throws {
        try text.reset()
        lag = 0
    }

    public func snapshot() throws -> any Snapshot { Remembered(state: try text.snapshot(), lag: lag) }

    public func restore(_ snapshot: any Snapshot) throws {
        guard let remembered = snapshot as? Remembered else {
            throw EdgeError(.engine, "this snapshot is of another engine; start the chat anew")
        }
        try text.restore(remembered.state)
        lag = remembered.lag
    }
}
