#if canImport(ExecuTorch)
    import ExecuTorch
    import Foundation
    import QwenEdgeCore

    /// Opens ExecuTorch artifacts: one `.pte` whose method `forward(tokens, input_pos)` keeps its state inside and forgets it
    /// at position 0. Swift cannot reach that state, so going back means reading again.
    public struct ExecuTorchFactory: EngineFactory {
        public let runtime = "executorch"
        /// Swift packages of 1.5.1 do not exist; operators and kernels of 1.5.0 are the same.
        public let version = "1.5.1"

        public init() {}

        public func open(_ artifact: Artifact, threads: Int?) throws -> any Engine {
            guard artifact.manifest.vision == nil else {
                throw EdgeError(.engine, "\(artifact.name) sees, which this app cannot do with ExecuTorch; use the Core ML artifact")
            }
            let place = try artifact.place(of: artifact.manifest.modelFile)
            return ReplayingEngine(try ExecuTorchRunner(place), manifest: artifact.manifest)
        }
    }

    /// The method of one program.
    final class ExecuTorchRunner: TokenRunner {
        private static let method = "forward"

        let name = "ExecuTorch, the CPU"
        private let module: Module

        init(_ place: URL) throws {
            module = Module(filePath: place.path)
            try module.load(Self.method)
        }

        func run(_ tokens: [Int], after position: Int) throws -> [Float] {
            let ids = Tensor<Int64>(tokens.map(Int64.init), shape: [1, tokens.count])
            let place = Tensor<Int64>([Int64(position)], shape: [1])
            let logits: Tensor<Float> = try module.forward([ids, place])
            return logits.scalars()
        }
    }
#endif
