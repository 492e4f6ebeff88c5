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
                folder: folder.appending(path: "ways"),
                system: "\(system.majorVersion).\(system.minorVersion).\(system.patchVersion)",
                app: Bundle.main.object(forInfoDictionaryKey: "CFBundleVersion") as? String ?? "0")
        }

        /// The newest model specification that this system reads.
        public var version: String {
            if #available(iOS 26, macOS 26, *) { "10" } else { "9" }
        }

        public func open(_ artifact: Artifact, threads: Int?) throws -> any Engine {
            let description = try CoreMLDescription(of: artifact)
            let vision = artifact.manifest.vision
            let tower = vision.map { String($0.towerFile.prefix { $0 != "/" }) }
            let packages = description.packages
            let places = try CompiledPackages(in: compiled).places(of: packages + (tower.map { [$0] } ?? []), artifact)
            let candidates = Self.candidates(description)
            return try ways.open(artifact, ways: candidates.map(\.name), oracle: try Oracle.find(for: artifact)) { name in
                let way = candidates.first { $0.name == name }!
                let layout = description.layout(way.layout)!
                let runner = try CoreMLRunner(
                    places.filter { packages.contains($0.key) }, layout, units: way.units, name: "Core ML, \(way.name)")
                let text = try FunctionEngine(runner, packages: packages, layout: layout, manifest: artifact.manifest)
                guard let vision, let tower else { return text }
                return SeeingFunctionEngine(text, vision, encode: Tower(places[tower]!).encode)
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
    }
#endif
