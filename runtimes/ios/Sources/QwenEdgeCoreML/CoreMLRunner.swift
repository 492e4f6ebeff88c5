#if canImport(CoreML)
    import CoreML
    import Foundation
    import QwenEdgeCore

    /// The functions of some packages in Core ML itself; functions of a package share its `MLState`.
    final class CoreMLRunner: FunctionRunner {
        /// A multi-array that nobody changes any more.
        struct Tensor: @unchecked Sendable {
            let array: MLMultiArray
        }

        /// Bytes of each state by package and name.
        typealias States = [String: [String: SavedState]]

        let name: String
        private let models: [String: [String: MLModel]]  // by package and function
        private let layout: [String: FunctionLayout.State]
        private var states: [String: MLState] = [:]

        init(_ packages: [String: URL], _ layout: FunctionLayout, units: MLComputeUnits, name: String) throws {
            self.name = name
            self.layout = Dictionary(uniqueKeysWithValues: layout.states.map { ($0.name, $0) })
            models = try packages.mapValues { place in
                var functions: [String: MLModel] = [:]
                for function in [layout.decode, layout.prefill] {
                    let configuration = MLModelConfiguration()
                    configuration.computeUnits = units
                    configuration.functionName = function
                    functions[function] = try MLModel(contentsOf: place, configuration: configuration)
                }
                return functions
            }
            reset()
        }

        func inputNames(package: String, function: String) throws -> [String] {
            Array(try model(package, function).modelDescription.inputDescriptionsByName.keys)
        }

        func tensor(_ values: [Int32], shape: [Int]) throws -> Tensor {
            let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .int32)
            array.withUnsafeMutableBytes { bytes, _ in
                values.withUnsafeBytes { bytes.copyMemory(from: $0) }
            }
            return Tensor(array: array)
        }

        func tensor(_ values: [Float], shape: [Int], for input: FunctionInput) throws -> Tensor {
            let wanted = try model(input.package, input.function).modelDescription.inputDescriptionsByName[input.name]
            return Tensor(array: try multiArray(values, shape, wanted?.multiArrayConstraint?.dataType ?? .float32))
        }

        func zeros(for state: FunctionLayout.State) throws -> Tensor {
            let type: MLMultiArrayDataType = state.dtype == .float32 ? .float32 : .float16
            let array = try MLMultiArray(shape: state.shape.map { NSNumber(value: $0) }, dataType: type)
            array.withUnsafeMutableBytes { bytes, _ in
                _ = bytes.initializeMemory(as: UInt8.self, repeating: 0)
            }
            return Tensor(array: array)
        }

        func call(package: String, function: String, inputs: [String: Tensor]) throws -> [String: Tensor] {
            let features = try MLDictionaryFeatureProvider(
                dictionary: inputs.mapValues { MLFeatureValue(multiArray: $0.array) })
            let found = try model(package, function).prediction(from: features, using: states[package]!)
            var outputs: [String: Tensor] = [:]
            for name in found.featureNames {
                if let array = found.featureValue(for: name)?.multiArrayValue { outputs[name] = Tensor(array: array) }
            }
            return outputs
        }

        func numbers(_ tensor: Tensor, last count: Int) throws -> [Float] {
            Array(MLShapedArray<Float>(converting: tensor.array).scalars.suffix(count))
        }

        func copyStates(filled: Int) throws -> States {
            var saved: States = [:]
            for (package, state) in states {
                for name in stateNames(package) {
                    saved[package, default: [:]][name] = state.withMultiArray(for: name) { array in
                        SavedState(array, layout[name], filled: filled)
                    }
                }
            }
            return saved
        }

        func write(_ saved: States) throws {
            for (package, byName) in saved {
                guard let state = states[package] else { continue }
                for (name, bytes) in byName { state.withMultiArray(for: name) { bytes.write(to: $0) } }
            }
        }

        /// New states, which Core ML makes of zeros.
        func reset() {
            states = models.mapValues { $0.values.first!.makeState() }
        }

        private func stateNames(_ package: String) -> [String] {
            Array(models[package]!.values.first!.modelDescription.stateDescriptionsByName.keys)
        }

        private func model(_ package: String, _ function: String) throws -> MLModel {
            guard let model = models[package]?[function] else {
                throw EdgeError(.engine, "\(package) has no function '\(function)'; import the bundle again")
            }
            return model
        }
    }
#endif
