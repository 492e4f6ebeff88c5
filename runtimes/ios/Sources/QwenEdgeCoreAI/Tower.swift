#if canImport(CoreAI)
    import CoreAI
    import Foundation
    import QwenEdgeCore

    /// The asset that encodes images, a function for each grid; opened when the first image comes.
    @available(iOS 27, macOS 27, *)
    final class Tower {
        private let asset: URL
        private var model: AIModel?

        init(_ asset: URL) {
            self.asset = asset
        }

        /// A row of features for each token of an image.
        func encode(_ image: PatchedImage) throws -> [Float] {
            let grid = image.tokenGrid
            let name = "image_\(grid.height)x\(grid.width)"
            let model = try opened()
            guard let function = try model.loadFunction(named: name), let found = model.functionDescriptor(for: name),
                case .ndArray(let patches)? = found.inputDescriptor(of: "pixel_values"),
                case .ndArray(let features)? = found.outputDescriptor(of: "image_features")
            else {
                throw EdgeError(.engine, "\(asset.lastPathComponent) has no '\(name)' with features; import the bundle again")
            }
            let inputs = ["pixel_values": array(patches, of: Array(image.patches.joined()))]
            let call = Call(function: function, inputs: inputs, states: [:])
            let output = NDArray(descriptor: features)
            return numbers(in: try finished { try await call.run(output, as: "image_features") })
        }

        private func opened() throws -> AIModel {
            if let model { return model }
            let asset = asset
            let opened = try finished { try await AIModel(contentsOf: asset) }
            model = opened
            return opened
        }
    }

    /// Numbers in an array of 32 or 16 bits, as a function describes it.
    @available(iOS 27, macOS 27, *)
    func array(_ descriptor: NDArrayDescriptor, of values: [Float]) -> NDArray {
        var array = NDArray(descriptor: descriptor)
        let isHalf = array.scalarType == .float16
        array.mutableRawView().withUnsafeMutableBytes { memory, _, _ in
            if isHalf {
                values.map(Half.bits).withUnsafeBytes { memory.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            } else {
                values.withUnsafeBytes { memory.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            }
        }
        return array
    }

    /// All numbers of an array of 32 or 16 bits.
    @available(iOS 27, macOS 27, *)
    func numbers(in array: NDArray) -> [Float] {
        let count = array.shape.reduce(1, *)
        return array.rawView().withUnsafeBytes { memory, _, _ in
            if array.scalarType == .float16 {
                let halves = memory.assumingMemoryBound(to: UInt16.self)
                return (0..<count).map { Half.value(of: halves[$0]) }
            }
            let values = memory.assumingMemoryBound(to: Float.self)
            return (0..<count).map { values[$0] }
        }
    }
#endif
