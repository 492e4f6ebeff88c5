/// An engine of a model that sees.
public protocol SeeingEngine: Engine {
    var vision: VisionPart { get }
    /// The position of the next token as mRoPE counts: less than its place in the sequence once an image was read.
    var nextPosition: Int { get }

    /// Run the vision tower on an image; the sequence stays as it is.
    func see(_ image: PatchedImage) throws -> SeenImage

    /// Append a prompt, or a piece of one, of at most `prefillChunk` tokens.
    func forward(_ prompt: Prompt) throws -> [Float]
}

extension Engine {
    /// This engine as one that sees; an error where it does not.
    func seeing() throws -> any SeeingEngine {
        guard let seeing = self as? any SeeingEngine else {
            throw EdgeError(.image, "this model cannot see; choose one that can")
        }
        return seeing
    }
}

/// A picture that may have to be decoded first, on the model's thread.
public protocol Picture: Sendable {
    /// Upright, 8-bit RGB.
    func pixels() throws -> Pixels
}

/// What the vision tower made of one image: a row of features for each token. `digest` names the pixels.
public struct SeenImage: Sendable {
    public let features: [Float]
    public let grid: TokenGrid
    public let digest: String

    public init(features: [Float], grid: TokenGrid, digest: String) {
        self.features = features
        self.grid = grid
        self.digest = digest
    }
}

/// Tokens with images among them: where each stands, and the features of the image tokens in order.
public struct Prompt: Sendable {
    public let tokens: [Int]
    public let positions: TokenPositions
    public let features: [Float]
    /// The width of a feature.
    public let hiddenSize: Int
    private let imageTokenId: Int

    /// Tokens to append to an engine's sequence, `images` in the order of their places in it.
    public init(_ tokens: [Int], _ images: [SeenImage], for engine: any SeeingEngine) throws {
        self.tokens = tokens
        imageTokenId = engine.vision.imageTokenId
        hiddenSize = engine.vision.hiddenSize
        positions = try TokenPositions(
            of: tokens, imageTokenId: imageTokenId, grids: images.map(\.grid), start: engine.nextPosition)
        features = images.flatMap(\.features)
    }

    private init(_ whole: Prompt, _ range: Range<Int>) {
        (imageTokenId, hiddenSize) = (whole.imageTokenId, whole.hiddenSize)
        tokens = Array(whole.tokens[range])
        positions = whole.positions.cut(range)
        let seen = whole.tokens[..<range.lowerBound].count { $0 == whole.imageTokenId }
        let own = tokens.count { $0 == whole.imageTokenId }
        features = Array(whole.features[seen * hiddenSize..<(seen + own) * hiddenSize])
    }

    /// Features in the places of image tokens among `size` places, zeros elsewhere.
    func spreadFeatures(over size: Int) -> [Float] {
        var spread = [Float](repeating: 0, count: size * hiddenSize)
        let places = tokens.indices.filter { tokens[$0] == imageTokenId }
        for (row, place) in places.enumerated() {
            let from = row * hiddenSize
            spread.replaceSubrange(place * hiddenSize..<(place + 1) * hiddenSize, with: features[from..<from + hiddenSize])
        }
        return spread
    }

    /// Some of the tokens, with what belongs to them.
    public func cut(_ range: Range<Int>) -> Prompt { Prompt(self, range) }
}
