/// How an image becomes patches: numbers of the model; sizes in pixels, `mean` and `std` of values between 0 and 1.
///
/// Where there are `grids`, rows and columns of tokens, the tower takes these only: every image is resized to one of them.
public struct ImageSpec: Equatable, Sendable {
    public let patchSize: Int
    public let temporalPatchSize: Int
    public let mergeSize: Int
    public let minPixels: Int
    public let maxPixels: Int
    public let mean: [Double]
    public let std: [Double]
    public let grids: [TokenGrid]

    public init(
        patchSize: Int, temporalPatchSize: Int, mergeSize: Int, minPixels: Int, maxPixels: Int, mean: [Double],
        std: [Double], grids: [TokenGrid] = []
    ) {
        self.patchSize = patchSize
        self.temporalPatchSize = temporalPatchSize
        self.mergeSize = mergeSize
        self.minPixels = minPixels
        self.maxPixels = maxPixels
        self.mean = mean
        self.std = std
        self.grids = grids
    }

    /// Both sides of a resized image are multiples of this: the side of one token.
    public var factor: Int { patchSize * mergeSize }
}

/// Rows and columns of pixels.
public struct PixelSize: Equatable, Sendable {
    public let height: Int
    public let width: Int

    public init(height: Int, width: Int) {
        self.height = height
        self.width = width
    }
}

extension ImageSpec {
    private static let maxAspectRatio = 200

    /// The size after resizing: the free size, or of the grids the nearest.
    public func targetSize(of size: PixelSize) throws -> PixelSize {
        let free = try freeSize(of: size)
        guard !grids.isEmpty else { return free }
        let grid = nearestGrid(to: size, tokens: free.height * free.width / (factor * factor))
        return PixelSize(height: grid.height * factor, width: grid.width * factor)
    }

    /// The grid that bends an image least; among equals the one nearest to so many tokens, then the first. Nearness is a
    /// quotient of at least one.
    private func nearestGrid(to size: PixelSize, tokens: Int) -> TokenGrid {
        func quotient(_ one: Int, _ other: Int) -> Double { Double(max(one, other)) / Double(min(one, other)) }
        func distance(_ grid: TokenGrid) -> (Double, Double) {
            (quotient(size.height * grid.width, size.width * grid.height), quotient(grid.tokens, tokens))
        }
        return grids.dropFirst().reduce(grids[0]) { distance($1) < distance($0) ? $1 : $0 }
    }

    /// The size for a tower that takes any: the ratio kept as well as multiples of a token's side can. Halves round to even.
    private func freeSize(of size: PixelSize) throws -> PixelSize {
        let (height, width) = (size.height, size.width)
        guard max(height, width) <= Self.maxAspectRatio * min(height, width) else {
            throw EdgeError(
                .image,
                "an image of \(width) x \(height) pixels is more than \(Self.maxAspectRatio) times as long as wide; crop it")
        }
        func multiple(_ value: Double, _ rule: FloatingPointRoundingRule) -> Int {
            Int((value / Double(factor)).rounded(rule)) * factor
        }
        let rows = multiple(Double(height), .toNearestOrEven), columns = multiple(Double(width), .toNearestOrEven)
        let pixels = Double(height * width)
        if rows * columns > maxPixels {
            let shrink = (pixels / Double(maxPixels)).squareRoot()
            return PixelSize(
                height: max(factor, multiple(Double(height) / shrink, .down)),
                width: max(factor, multiple(Double(width) / shrink, .down)))
        }
        if rows * columns < minPixels {
            let grow = (Double(minPixels) / pixels).squareRoot()
            return PixelSize(
                height: multiple(Double(height) * grow, .up), width: multiple(Double(width) * grow, .up))
        }
        return PixelSize(height: rows, width: columns)
    }
}
