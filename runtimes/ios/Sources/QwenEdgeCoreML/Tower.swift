#if canImport(CoreML)
    import CoreML
    import Foundation
    import QwenEdgeCore

    /// The package that encodes images, a function for each grid, each loaded when the first image of it comes.
    final class Tower {
        private let package: URL
        private var models: [String: MLModel] = [:]

        /// `package` is compiled.
        init(_ package: URL) {
            self.package = package
        }

        /// A row of features for each token of an image.
        func encode(_ image: PatchedImage) throws -> [Float] {
            let grid = image.tokenGrid
            let model = try model("image_\(grid.height)x\(grid.width)")
            let patches = Array(image.patches.joined())
            let array = try multiArray(patches, [image.patches.count, patches.count / image.patches.count], .float32)
            let inputs = try MLDictionaryFeatureProvider(dictionary: ["pixel_values": MLFeatureValue(multiArray: array)])
            guard let found = try model.prediction(from: inputs).featureValue(for: "image_features")?.multiArrayValue else {
                throw EdgeError(.engine, "the vision tower gives no image_features; import the bundle again")
            }
            return MLShapedArray<Float>(converting: found).scalars
        }

        private func model(_ function: String) throws -> MLModel {
            if let model = models[function] { return model }
            let configuration = MLModelConfiguration()
            configuration.computeUnits = .cpuAndGPU  // its products are float32, which the Neural Engine does not have
            configuration.functionName = function
            let model = try MLModel(contentsOf: package, configuration: configuration)
            models[function] = model
            return model
        }
    }

    /// Numbers as a multi-array of 32 or 16 bits.
    func multiArray(_ values: [Float], _ shape: [Int], _ type: MLMultiArrayDataType) throws -> MLMultiArray {
        let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: type)
        array.withUnsafeMutableBytes { bytes, _ in
            if type == .float16 {
                values.map(Half.bits).withUnsafeBytes { bytes.copyMemory(from: $0) }
            } else {
                values.withUnsafeBytes { bytes.copyMemory(from: $0) }
            }
        }
        return array
    }
#endif
