#if canImport(CoreAI)
    import CoreAI
    import Foundation
    import QwenEdgeCore

    /// The functions of one asset; its states are arrays of ours that each call updates in place.
    @available(iOS 27, macOS 27, *)
    final class CoreAIRunner: FunctionRunner {
        typealias Tensor = NDArray
        typealias States = [String: Data]

        let name = "Core AI"
        private let functions: [String: InferenceFunction]
        private let outputs: [String: NDArrayDescriptor]
        private let descriptors: [String: InferenceFunctionDescriptor]
        private let tensors: [StateTensor]
        private var states: [String: NDArray] = [:]

        init(_ asset: URL, _ layout: FunctionLayout, _ tensors: [StateTensor]) throws {
            let model = try finished { try await AIModel(contentsOf: asset) }
            var functions: [String: InferenceFunction] = [:], descriptors: [String: InferenceFunctionDescriptor] = [:]
            var outputs: [String: NDArrayDescriptor] = [:]
            for name in [layout.decode, layout.prefill] {
                guard let function = try model.loadFunction(named: name), let found = model.functionDescriptor(for: name),
                    case .ndArray(let logits)? = found.outputDescriptor(of: "logits")
                else {
                    throw EdgeError(.engine, "\(asset.lastPathComponent) has no '\(name)' with logits; import the bundle again")
                }
                (functions[name], descriptors[name], outputs[name]) = (function, found, logits)
            }
            (self.functions, self.descriptors, self.outputs, self.tensors) = (functions, descriptors, outputs, tensors)
            reset()
        }

        func inputNames(package: String, function: String) -> [String] {
            descriptors[function]!.inputNames
        }

        func tensor(_ values: [Int32], shape: [Int]) -> NDArray {
            var array = NDArray(shape: shape, scalarType: .int32)
            array.mutableRawView().withUnsafeMutableBytes { memory, _, _ in
                values.withUnsafeBytes { memory.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            }
            return array
        }

        func tensor(_ values: [Float], shape: [Int], for input: FunctionInput) throws -> NDArray {
            guard case .ndArray(let descriptor)? = descriptors[input.function]?.inputDescriptor(of: input.name) else {
                throw EdgeError(.engine, "'\(input.function)' takes no numbers as '\(input.name)'; import the bundle again")
            }
            return array(descriptor, of: values)
        }

        /// All states are given with each call.
        func zeros(for state: FunctionLayout.State) throws -> NDArray {
            throw EdgeError(.engine, "Core AI knows no state '\(state.name)' outside its calls")
        }

        func call(package: String, function: String, inputs: [String: NDArray]) throws -> [String: NDArray] {
            let call = Call(function: functions[function]!, inputs: inputs, states: states)
            states = [:]  // the call's own meanwhile: a second reference would mean a copy
            defer { states = call.states }
            let logits = NDArray(descriptor: outputs[function]!)
            return ["logits": try finished { try await call.run(logits, as: "logits") }]
        }

        func numbers(_ tensor: NDArray, last count: Int) -> [Float] {
            let first = tensor.shape.reduce(1, *) - count
            return tensor.rawView().withUnsafeBytes { memory, _, _ in
                let values = memory.assumingMemoryBound(to: Float.self)
                return (first..<first + count).map { values[$0] }
            }
        }

        func copyStates(filled: Int) -> States {
            var saved: States = [:]
            for tensor in tensors {
                saved[tensor.name] = states[tensor.name]!.rawView().withUnsafeBytes { memory, _, _ in
                    var bytes = Data()
                    for place in places(tensor, filled) { bytes.append(Data(bytes: memory + place.lowerBound, count: place.count)) }
                    return bytes
                }
            }
            return saved
        }

        func write(_ saved: States) {
            for tensor in tensors {
                guard let bytes = saved[tensor.name], var state = states.removeValue(forKey: tensor.name) else { continue }
                let row = StateBytes(shape: tensor.shape, elementBytes: tensor.dtype.bytes, tokenAxis: tensor.tokenAxis, filled: 1)
                let filled = tensor.tokenAxis == nil ? 0 : bytes.count / row.count
                state.mutableRawView().withUnsafeMutableBytes { memory, _, _ in
                    var from = 0
                    for place in places(tensor, filled) {
                        bytes.withUnsafeBytes { source in
                            (memory + place.lowerBound).copyMemory(from: source.baseAddress! + from, byteCount: place.count)
                        }
                        from += place.count
                    }
                }
                states[tensor.name] = state
            }
        }

        /// New arrays of zeros.
        func reset() {
            for tensor in tensors {
                var state = NDArray(shape: tensor.shape, scalarType: tensor.dtype == .float32 ? .float32 : .float16)
                state.mutableRawView().withUnsafeMutableBytes { memory, _, _ in
                    _ = memory.initializeMemory(as: UInt8.self, repeating: 0, count: tensor.bytes)
                }
                states[tensor.name] = state
            }
        }

        private func places(_ tensor: StateTensor, _ filled: Int) -> [Range<Int>] {
            StateBytes(
                shape: tensor.shape, elementBytes: tensor.dtype.bytes, tokenAxis: tensor.tokenAxis, filled: filled
            ).ranges
        }
    }
#endif
