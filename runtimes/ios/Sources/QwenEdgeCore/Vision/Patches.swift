import Foundation

/// An image as the vision tower reads it: rows of (channel, frame, row, column), a still image standing in every frame.
///
/// Patches come in blocks of `mergeSize` x `mergeSize`, since the merger makes one token of a block.
public struct PatchedImage: Equatable, Sendable {
    public let patches: [[Float]]
    /// Rows and columns of patches.
    public let height: Int
    public let width: Int
    public let mergeSize: Int

    /// The rows and columns of tokens that the image takes in the text.
    public var tokenGrid: TokenGrid { TokenGrid(height: height / mergeSize, width: width / mergeSize) }

    /// Names the pixels: SHA-256 of the patches as float32.
    public var digest: String {
        var hash = Hash()
        for patch in patches { patch.withUnsafeBytes { hash.update(Data($0)) } }
        return hash.hex
    }

    /// Resize, normalise and cut an image.
    public init(_ image: Pixels, _ spec: ImageSpec) throws {
        let resized = try image.resized(to: try spec.targetSize(of: image.size))
        height = resized.size.height / spec.patchSize
        width = resized.size.width / spec.patchSize
        mergeSize = spec.mergeSize
        patches = Self.cut(resized, spec)
    }

    private static func cut(_ image: Pixels, _ spec: ImageSpec) -> [[Float]] {
        let blocksDown = image.size.height / spec.factor, blocksAcross = image.size.width / spec.factor
        var patches: [[Float]] = []
        for block in 0..<blocksDown * blocksAcross {
            for inner in 0..<spec.mergeSize * spec.mergeSize {
                let row = block / blocksAcross * spec.factor + inner / spec.mergeSize * spec.patchSize
                let column = block % blocksAcross * spec.factor + inner % spec.mergeSize * spec.patchSize
                patches.append(patch(image, spec, row: row, column: column))
            }
        }
        return patches
    }

    private static func patch(_ image: Pixels, _ spec: ImageSpec, row: Int, column: Int) -> [Float] {
        (0..<3).flatMap { channel in
            // value / 255, minus the mean, by the standard deviation, as one product and one difference in float32
            let scale = Float(1 / (255 * spec.std[channel])), shift = Float(spec.mean[channel] / spec.std[channel])
            var frame: [Float] = []
            for y in row..<row + spec.patchSize {
                for x in column..<column + spec.patchSize {
                    frame.append(Float(image.rgb[(y * image.size.width + x) * 3 + channel]) * scale - shift)
                }
            }
            return (0..<spec.temporalPatchSize).flatMap { _ in frame }
        }
    }
}
