#if canImport(CoreML)
    import CoreML
    import Foundation
    import QwenEdgeCore

    /// Opens Core ML artifacts (docs/coreml.md): finds the layout and the compute units that give the right answers on this
    /// device, and remembers them.
    public struct CoreMLFactory: EngineFactory {
        /// Where state lives, and what computes.
        private struct Way {
            let layout: String
            let units: MLComputeUnits
            let unitsName: String

            var name: String { "\(layout) on \(unitsName)" }
        }

        public let runtime = "coreml"
        private let compiled: URL
        private let ways: WayFinder

        /// `folder` is where compiled models and what was found of them are kept, out of backups.
        public init(folder: URL) {
            compiled = folder.appending(path: "compiled")
            let system = ProcessInfo.processInfo.operatingSystemVersion
            ways = WayFinder(
                folder: folder.appending(path: "ways"), system: "\(system.majorVersion).\(system.minorVersion).\(system.patchVersion)")
        }

        /// The newest model specification that this system reads.
        public var version: String {
            if #available(iOS 26, macOS 26, *) { "10" } else { "9" }
        }

        public func open(_ artifact: Artifact, threads: Int?) throws -> any Engine {
            let description = try CoreMLDescription(of: artifact)
            let packages = try CompiledPackages(in: compiled).places(of: description.packages, artifact)
            let candidates = Self.candidates(description)
            return try ways.open(artifact, ways: candidates.map(\.name), oracle: try oracle(of: artifact)) { name in
                let way = candidates.first { $0.name == name }!
                let layout = description.layout(way.layout)!
                let runner = try CoreMLRunner(packages, layout, units: way.units, name: "Core ML, \(way.name)")
                return try FunctionEngine(
                    runner, packages: description.packages, layout: layout, manifest: artifact.manifest)
            }
        }

        /// The Neural Engine in each layout first; the GPU serves who may use it; the CPU is right, if slow.
        private static func candidates(_ description: CoreMLDescription) -> [Way] {
            let units: [(MLComputeUnits, String)] = [
                (.cpuAndNeuralEngine, "the Neural Engine"), (.cpuAndGPU, "the GPU"), (.cpuOnly, "the CPU"),
            ]
            return units.flatMap { units, name in
                description.layouts.map { Way(layout: $0.name, units: units, unitsName: name) }
            }
        }

        /// The oracle beside the artifact or inside it.
        private func oracle(of artifact: Artifact) throws -> Oracle? {
            let folders = [artifact.directory, artifact.directory.deletingLastPathComponent()]
            for place in folders.map({ $0.appending(path: Oracle.fileName) }) {
                guard let data = try? Data(contentsOf: place) else { continue }
                if let found = try Oracle(Array(data), for: artifact.manifest) { return found }
            }
            return nil
        }
    }
#endif
