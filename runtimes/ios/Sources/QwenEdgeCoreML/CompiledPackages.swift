#if canImport(CoreML)
    import CoreML
    import Foundation
    import QwenEdgeCore

    /// Models as this device compiled them, made once for each artifact.
    struct CompiledPackages {
        private let folder: URL

        init(in folder: URL) {
            self.folder = folder
        }

        /// Where each package lies compiled.
        func places(of packages: [String], _ artifact: Artifact) throws -> [String: URL] {
            let own = folder.appending(path: artifact.manifest.sha256)
            try FileManager.default.createDirectory(at: own, withIntermediateDirectories: true)
            var places: [String: URL] = [:]
            for package in packages {
                let target = own.appending(path: "\(package).mlmodelc")
                if !FileManager.default.fileExists(atPath: target.path) {
                    let source = try artifact.place(of: package)
                    let made = try finished { try await MLModel.compileModel(at: source) }
                    try FileManager.default.moveItem(at: made, to: target)
                }
                places[package] = target
            }
            return places
        }
    }
#endif
