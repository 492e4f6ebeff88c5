/// The part of an artifact that sees: its files, the tokens around an image, and how an image is prepared.
public struct VisionPart: Equatable, Sendable {
    public let towerFile: String
    public let embeddingFile: String
    /// The width of a feature.
    public let hiddenSize: Int
    public let imageTokenId: Int
    public let startTokenId: Int
    public let endTokenId: Int
    public let images: ImageSpec

    public init(
        towerFile: String, embeddingFile: String, hiddenSize: Int, imageTokenId: Int, startTokenId: Int, endTokenId: Int,
        images: ImageSpec
    ) {
        self.towerFile = towerFile
        self.embeddingFile = embeddingFile
        self.hiddenSize = hiddenSize
        self.imageTokenId = imageTokenId
        self.startTokenId = startTokenId
        self.endTokenId = endTokenId
        self.images = images
    }
}

extension VisionPart {
    private static let tokenIds = 0...16_777_215

    private enum Format: String { case float, rowsOf8Bits = "int8_row" }

    /// What a manifest says in `vision`; nil where there is nothing.
    init?(of manifest: inout Fields) throws {
        guard manifest.optional("vision") != nil else { return nil }
        var fields = try manifest.fields("vision")
        towerFile = try fields.text("tower_file", .path)
        embeddingFile = try fields.text("embedding_file", .path)
        let _: Format = try fields.choice("format")
        hiddenSize = try fields.integer("hidden_size", 1...1_048_576)
        imageTokenId = try fields.integer("image_token_id", Self.tokenIds)
        startTokenId = try fields.integer("vision_start_token_id", Self.tokenIds)
        endTokenId = try fields.integer("vision_end_token_id", Self.tokenIds)
        images = try ImageSpec(of: &fields)
        try fields.done()
    }

    /// Whether it fits the rest of a manifest.
    func check(_ manifest: Manifest) throws {
        for path in [towerFile, embeddingFile] where !manifest.files.contains(where: { $0.path == path }) {
            throw refused("vision file '\(path)' is not among its files")
        }
        for token in [imageTokenId, startTokenId, endTokenId] where token >= manifest.vocabSize {
            throw refused("vision token id \(token) is outside vocab_size \(manifest.vocabSize)")
        }
        guard images.maxPixels >= max(images.minPixels, images.factor * images.factor) else {
            throw refused("images of \(images.minPixels) to \(images.maxPixels) pixels leave no room for a token")
        }
        for grid in images.grids where grid.tokens * images.factor * images.factor > images.maxPixels {
            throw refused("a grid of \(grid.height) x \(grid.width) tokens has more than max_pixels \(images.maxPixels)")
        }
    }

    private func refused(_ problem: String) -> EdgeError {
        EdgeError(.manifest, "\(Manifest.fileName): \(problem); copy the bundle again or export it again")
    }
}

extension ImageSpec {
    fileprivate init(of vision: inout Fields) throws {
        var fields = try vision.fields("images")
        self.init(
            patchSize: try fields.integer("patch_size", 1...256),
            temporalPatchSize: try fields.integer("temporal_patch_size", 1...16),
            mergeSize: try fields.integer("merge_size", 1...16),
            minPixels: try fields.integer("min_pixels", 1...1_073_741_824),
            maxPixels: try fields.integer("max_pixels", 1...1_073_741_824),
            mean: try fields.numbers("mean", 3...3), std: try fields.numbers("std", 3...3),
            grids: try Self.grids(&fields))
        for (name, values) in [("mean", mean), ("std", std)] where !values.allSatisfy({ $0 > 0 && $0 <= 1000 }) {
            throw fields.refused(name, "\(values) are not all above 0 and at most 1000")
        }
        try fields.done()
    }

    /// The only images that the tower takes; none where it takes any.
    private static func grids(_ fields: inout Fields) throws -> [TokenGrid] {
        guard fields.has("grids") else { return [] }
        let items = try fields.list("grids", 1...64)
        let grids = try items.map { item in
            guard let sides = item.array?.map(\.integer), sides.count == 2, let height = sides[0], let width = sides[1],
                1...4096 ~= height, 1...4096 ~= width
            else { throw fields.refused("grids", "expected pairs of 1 to 4096") }
            return TokenGrid(height: height, width: width)
        }
        guard Set(grids).count == grids.count else { throw fields.refused("grids", "one is listed twice") }
        return grids
    }
}
