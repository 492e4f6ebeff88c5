#if canImport(CoreAI)
    import CoreAI
    import Foundation
    import QwenEdgeCore

    /// Opens Core AI artifacts (docs/coreai.md): one asset with the functions `decode` and `prefill`, from iOS 27 on.
    @available(iOS 27, macOS 27, *)
    public struct CoreAIFactory: EngineFactory {
        public let runtime = "coreai"
        /// The first version of the format.
        public let version = "1.0.0"

        public init() {}

        public func open(_ artifact: Artifact, threads: Int?) throws -> any Engine {
            guard artifact.manifest.vision == nil else {
                throw EdgeError(.engine, "\(artifact.name) sees, which this app cannot do with Core AI; use the Core ML artifact")
            }
            let asset = try artifact.place(of: artifact.manifest.modelFile).deletingLastPathComponent()
            let layout = FunctionLayout(decode: "decode", prefill: "prefill", states: [])
            let runner = try CoreAIRunner(asset, layout, artifact.manifest.state)
            return try FunctionEngine(
                runner, packages: [asset.lastPathComponent], layout: layout, manifest: artifact.manifest)
        }
    }
#endif
