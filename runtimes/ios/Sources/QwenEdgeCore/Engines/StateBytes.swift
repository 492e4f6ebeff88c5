/// The bytes of a state tensor that hold something: all of a fixed state, of a cache the rows of tokens that are in.
public struct StateBytes: Equatable, Sendable {
    /// Places in the tensor's memory, in order.
    public let ranges: [Range<Int>]

    /// Of a tensor whose elements lie one after the other, the last axis fastest.
    public init(shape: [Int], elementBytes: Int, tokenAxis: Int?, filled: Int) {
        let all = shape.reduce(elementBytes, *)
        guard let tokenAxis, filled < shape[tokenAxis] else {
            ranges = [0..<all]
            return
        }
        let row = shape[(tokenAxis + 1)...].reduce(elementBytes, *)
        let block = row * shape[tokenAxis]
        ranges = filled == 0 ? [] : stride(from: 0, to: all, by: block).map { $0..<$0 + filled * row }
    }

    public var count: Int { ranges.reduce(0) { $0 + $1.count } }
}
