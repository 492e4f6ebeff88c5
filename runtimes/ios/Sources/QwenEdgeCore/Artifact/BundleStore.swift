import Foundation

/// One entry of the model picker: an artifact, or why this directory holds none.
public struct Installed: Identifiable, Sendable {
    /// Its path below the folder it was found in.
    public let name: String
    public let directory: URL
    public let artifact: Artifact?
    public let problem: String?

    public var id: URL { directory }
}

/// The artifacts on this device: those copied into `shared` by a computer, and those that were imported.
///
/// An import is complete or invisible: files arrive in a hidden directory, are compared with their hashes on the way, and
/// one rename makes the artifact appear. Files that a computer copied are compared before their first use.
public struct BundleStore: Sendable {
    private static let partial = ".partial-"
    private static let spareBytes = 64 * 1024 * 1024

    private let imported: URL
    private let shared: [URL]
    private let notes: URL

    /// `imported` and `notes` belong to the store: what was imported, and what it remembers of checked files.
    public init(imported: URL, shared: [URL], notes: URL) {
        self.imported = imported
        self.shared = shared
        self.notes = notes
    }

    /// Everything that looks like an artifact, one or two levels deep; broken ones with the reason.
    public func list() -> [Installed] {
        (shared + [imported]).flatMap { root in artifactDirectories(root).map { installed($0, below: root) } }
    }

    /// Compare the files of an artifact with their hashes, unless that was done since they last changed. `onProgress`
    /// gets the share of the bytes read, 0 to 1, and may throw to end the work.
    public func verify(_ artifact: Artifact, onProgress: (Double) throws -> Void = { _ in }) throws {
        let note = notes.appending(path: artifact.manifest.sha256)
        let seen = Data(try fingerprint(artifact).utf8)
        if let noted = try? Data(contentsOf: note), noted == seen { return }
        let total = Double(max(1, artifact.manifest.totalBytes))
        try artifact.checkHashes { try onProgress(Double($0) / total) }
        try FileManager.default.createDirectory(at: notes, withIntermediateDirectories: true)
        try seen.write(to: note)
    }

    /// Copy the artifact in a folder, or every artifact of the bundle in it.
    public func importBundle(from folder: URL, onProgress: (Double) throws -> Void = { _ in }) throws {
        let isArtifact = FileManager.default.fileExists(atPath: folder.appending(path: Manifest.fileName).path)
        let sources = isArtifact ? [folder] : artifactDirectories(folder)
        guard !sources.isEmpty else {
            throw EdgeError(.artifact, "\(folder.lastPathComponent): no \(Manifest.fileName) in it; choose the folder of a bundle")
        }
        for source in sources { _ = try importArtifact(from: source, onProgress: onProgress) }
    }

    /// Copy an artifact from outside the app. Nothing of it is believed before it was checked.
    public func importArtifact(
        from source: URL, onProgress: (Double) throws -> Void = { _ in }
    ) throws -> Installed {
        let bytes = try readBytes(source.appending(path: Manifest.fileName), atMost: Manifest.maxBytes)
        let manifest = try readManifest(bytes)
        let target = imported.appending(path: directoryName(manifest))
        if FileManager.default.fileExists(atPath: target.path) { return installed(target, below: imported) }
        let hidden = imported.appending(path: Self.partial + manifest.sha256)
        try FileManager.default.createDirectory(at: hidden, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: hidden) }
        try checkSpace(manifest)
        do {
            try copy(manifest, from: source, to: hidden, onProgress)
            try copyOracle(beside: source, to: hidden)
            try Data(bytes).write(to: hidden.appending(path: Manifest.fileName))
            try FileManager.default.moveItem(at: hidden, to: target)
        } catch let error as CocoaError where error.code == .fileWriteOutOfSpace {
            throw EdgeError(.noSpace, "the device is full; make room and import \(manifest.model) again")
        }
        return installed(target, below: imported)
    }

    /// Remove what an import that was killed has left.
    public func cleanUp() {
        let found = try? FileManager.default.contentsOfDirectory(at: imported, includingPropertiesForKeys: nil)
        for place in found ?? [] where place.lastPathComponent.hasPrefix(Self.partial) {
            try? FileManager.default.removeItem(at: place)
        }
    }

    public func delete(_ entry: Installed) throws {
        try FileManager.default.removeItem(at: entry.directory)
    }

    private func copy(
        _ manifest: Manifest, from source: URL, to target: URL, _ onProgress: (Double) throws -> Void
    ) throws {
        var done = 0
        for entry in manifest.files {
            let place = target.appending(path: entry.path), original = source.appending(path: entry.path)
            guard lengthOfFile(original) == entry.bytes else {
                throw EdgeError(.fileMismatch, "\(entry.path) is missing or of another length; copy the bundle anew")
            }
            try FileManager.default.createDirectory(
                at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data().write(to: place)
            let file = try FileHandle(forWritingTo: place)
            defer { try? file.close() }
            let found = try digest(of: original, copyingTo: file) { count in
                done += count
                try onProgress(Double(done) / Double(manifest.totalBytes))
            }
            guard found.bytes == entry.bytes, found.sha256 == entry.sha256 else {
                throw EdgeError(.fileMismatch, "\(entry.path) differs from what its manifest promises; copy it anew")
            }
        }
    }

    /// What the bundle expects its artifacts to answer, by which the app checks them on this device.
    private func copyOracle(beside source: URL, to target: URL) throws {
        for folder in [source, source.deletingLastPathComponent()] {
            let place = folder.appending(path: Oracle.fileName)
            guard let length = lengthOfFile(place), length <= Oracle.maxBytes else { continue }
            return try FileManager.default.copyItem(at: place, to: target.appending(path: Oracle.fileName))
        }
    }

    private func checkSpace(_ manifest: Manifest) throws {
        let system = try? FileManager.default.attributesOfFileSystem(forPath: imported.path)
        let wanted = manifest.totalBytes + Self.spareBytes
        guard let free = (system?[.systemFreeSize] as? NSNumber)?.intValue, free < wanted else { return }
        throw EdgeError(.noSpace, "\(manifest.model) needs \(wanted) bytes, \(free) are free; make room")
    }

    private func installed(_ directory: URL, below root: URL) -> Installed {
        let name = directory.pathComponents.dropFirst(root.pathComponents.count).joined(separator: "/")
        do {
            return Installed(name: name, directory: directory, artifact: try Artifact(at: directory), problem: nil)
        } catch {
            return Installed(name: name, directory: directory, artifact: nil, problem: error.localizedDescription)
        }
    }

    private func artifactDirectories(_ root: URL) -> [URL] {
        let first = visibleDirectories(root)
        return (first + first.flatMap(visibleDirectories)).filter { directory in
            FileManager.default.fileExists(atPath: directory.appending(path: Manifest.fileName).path)
        }
    }

    private func visibleDirectories(_ root: URL) -> [URL] {
        let found = try? FileManager.default.contentsOfDirectory(
            at: root, includingPropertiesForKeys: [.isDirectoryKey], options: .skipsHiddenFiles)
        return (found ?? []).filter(\.hasDirectoryPath).sorted { $0.path < $1.path }
    }

    /// Changes when a file changes, without reading it.
    private func fingerprint(_ artifact: Artifact) throws -> String {
        try artifact.manifest.files.map { entry in
            let place = try artifact.place(of: entry.path)
            let found = try FileManager.default.attributesOfItem(atPath: place.path)
            let changed = (found[.modificationDate] as? Date)?.timeIntervalSinceReferenceDate ?? 0
            return "\(place.path) \(entry.bytes) \(changed)"
        }.joined(separator: "\n")
    }

    private func directoryName(_ manifest: Manifest) -> String {
        [manifest.model, manifest.scheme, manifest.backend, String(manifest.sha256.prefix(8))].joined(separator: "-")
    }
}
