/// Rows and columns of the tokens of one image.
public struct TokenGrid: Hashable, Sendable {
    public let height: Int
    public let width: Int

    public init(height: Int, width: Int) {
        self.height = height
        self.width = width
    }

    public var tokens: Int { height * width }
}

/// Where tokens stand in interleaved mRoPE when there are images between them: three rows, for time, height and width.
///
/// Text counts on in all three rows alike. The tokens of an image share one time, the next free place; height and width
/// count from there over its rows and columns; what follows stands behind the longer side.
public struct TokenPositions: Equatable, Sendable {
    public private(set) var time: [Int] = []
    public private(set) var height: [Int] = []
    public private(set) var width: [Int] = []
    /// Where the token after these stands.
    public private(set) var next: Int

    /// Positions of tokens the first of which stands at `start`; `grids` are of the images in order. Each run of image
    /// tokens is one whole image.
    public init(of tokens: [Int], imageTokenId: Int, grids: [TokenGrid], start: Int) throws {
        next = start
        var waiting = grids[...]
        for run in tokens.chunked(by: { $0 == imageTokenId }) {
            guard run.first == imageTokenId else {
                addText(run.count)
                continue
            }
            guard let grid = waiting.popFirst(), grid.tokens == run.count else {
                throw EdgeError(
                    .image, "\(run.count) image tokens in a row fit none of the images given; give each image once")
            }
            add(grid)
        }
        guard waiting.isEmpty else {
            throw EdgeError(.image, "\(waiting.count) images more than the prompt has places for; give each image once")
        }
    }

    /// Those of some of the tokens; the token after them stands behind the farthest place.
    func cut(_ range: Range<Int>) -> TokenPositions {
        var piece = self
        piece.time = Array(time[range])
        piece.height = Array(height[range])
        piece.width = Array(width[range])
        piece.next = [piece.time, piece.height, piece.width].compactMap { $0.max() }.max().map { $0 + 1 } ?? next
        return piece
    }

    private mutating func addText(_ count: Int) {
        let places = Array(next..<next + count)
        time += places
        height += places
        width += places
        next += count
    }

    private mutating func add(_ grid: TokenGrid) {
        for place in 0..<grid.tokens {
            time.append(next)
            height.append(next + place / grid.width)
            width.append(next + place % grid.width)
        }
        next += max(grid.height, grid.width)
    }
}

extension Array {
    /// Runs of items for which `kind` says the same.
    fileprivate func chunked(by kind: (Element) -> Bool) -> [ArraySlice<Element>] {
        var chunks: [ArraySlice<Element>] = []
        var from = 0
        while from < count {
            let to = self[from...].firstIndex { kind($0) != kind(self[from]) } ?? count
            chunks.append(self[from..<to])
            from = to
        }
        return chunks
    }
}
