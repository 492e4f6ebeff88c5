#if canImport(CoreML)
    import CoreML
    import Foundation
    import QwenEdgeCore

    /// The bytes of one state; of a cache only the rows of tokens that are in, where its rows lie one after the other.
    struct SavedState: Sendable {
        private let places: [Range<Int>]
        private let bytes: Data

        init(_ array: MLMultiArray, _ state: FunctionLayout.State?, filled: Int) {
            let places = Self.places(array, state, filled: filled)
            self.places = places
            bytes = array.withUnsafeBytes { memory in
                places.reduce(into: Data()) { $0.append(contentsOf: memory[$1]) }
            }
        }

        func write(to array: MLMultiArray) {
            array.withUnsafeMutableBytes { memory, _ in
                var from = bytes.startIndex
                for place in places {
                    bytes.copyBytes(to: UnsafeMutableRawBufferPointer(rebasing: memory[place]), from: from..<from + place.count)
                    from += place.count
                }
            }
        }

        /// Where rows are padded nobody knows what lies where, so everything is kept.
        private static func places(_ array: MLMultiArray, _ state: FunctionLayout.State?, filled: Int) -> [Range<Int>] {
            let all = array.withUnsafeBytes { $0.count }
            guard let state else { return [0..<all] }
            let filledRows = StateBytes(
                shape: state.shape, elementBytes: state.dtype.bytes, tokenAxis: state.tokenAxis, filled: filled)
            let isPlain = all == state.shape.reduce(state.dtype.bytes, *)
            return isPlain ? filledRows.ranges : [0..<all]
        }
    }
#endif
