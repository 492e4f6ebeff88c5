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
            let asset = try artifact.place(of: artifact.manifest.modelFile).deletingLastPathComponent()
            let layout = FunctionLayout(decode: "decode", prefill: "prefill", states: [])
            let runner = try CoreAIRunner(asset, layout, artifact.manifest.state)
            let text = try FunctionEngine(
                runner, packages: [asset.lastPathComponent], layout: layout, manifest: artifact.manifest)
            guard let vision = artifact.manifest.vision else { return text }
            let tower = Tower(try artifact.place(of: vision.towerFile).deletingLastPathComponent())
            return SeeingFunctionEngine(text, vision, encode: tower.encode)
        }
    }
#endif
