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
/// An import is complete or invisible, a bundle's as a whole: files arrive in hidden directories, are compared with their
/// hashes on the way, and renames at the end make the artifacts appear. Files that a computer copied are compared before their first use.
public struct BundleStore: Sendable {
    private static let spareBytes = 64 * 1024 * 1024
    /// Beyond any device: a sum of many promises must not overflow.
    private static let mostBytes = 1 << 60

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

    /// Copy the artifact in a folder, or the artifacts of the bundle in it: every one of them, or none.
    @discardableResult
    public func importBundle(from folder: URL, onProgress: (Double) throws -> Void = { _ in }) throws -> [Installed] {
        let isArtifact = FileManager.default.fileExists(atPath: folder.appending(path: Manifest.fileName).path)
        let sources = isArtifact ? [folder] : artifactDirectories(folder)
        guard !sources.isEmpty else {
            throw EdgeError(.artifact, "\(folder.lastPathComponent): no \(Manifest.fileName) in it; choose the folder of a bundle")
        }
        var arrivals: [Arrival] = []
        for source in sources {
            let arrival = try Arrival(from: source, into: imported)
            if !arrivals.contains(where: { $0.target == arrival.target }) { arrivals.append(arrival) }
        }
        return try install(arrivals, onProgress)
    }

    /// Remove what an import that was killed has left.
    public func cleanUp() {
        let found = try? FileManager.default.contentsOfDirectory(at: imported, includingPropertiesForKeys: nil)
        for place in found ?? [] where place.lastPathComponent.hasPrefix(Arrival.prefix) {
            try? FileManager.default.removeItem(at: place)
        }
    }

    public func delete(_ entry: Installed) throws {
        try FileManager.default.removeItem(at: entry.directory)
    }

    private func install(_ arrivals: [Arrival], _ onProgress: (Double) throws -> Void) throws -> [Installed] {
        let known = arrivals.filter(\.isInstalled), new = arrivals.filter { !$0.isInstalled }
        try FileManager.default.createDirectory(at: imported, withIntermediateDirectories: true)
        defer { new.forEach { $0.cleanUp() } }
        try checkSpace(new)
        do {
            try copyAll(new, onProgress)
            for arrival in new { try arrival.seal() }
            for arrival in known { try arrival.addOracle() }
            try moveAll(new)
        } catch let error as CocoaError where error.code == .fileWriteOutOfSpace {
            throw EdgeError(.noSpace, "the device is full; make room and import \(names(arrivals)) again")
        }
        return arrivals.map { installed($0.target, below: imported) }
    }

    private func copyAll(_ arrivals: [Arrival], _ onProgress: (Double) throws -> Void) throws {
        let total = Double(max(1, arrivals.reduce(0) { $0 + $1.manifest.totalBytes }))
        var done = 0
        for arrival in arrivals {
            try arrival.copyAll { count in
                done += count
                try onProgress(Double(done) / total)
            }
        }
    }

    /// One rename makes an artifact appear; where one fails, those before it are taken back.
    private func moveAll(_ arrivals: [Arrival]) throws {
        var moved: [Arrival] = []
        do {
            for arrival in arrivals {
                try arrival.move()
                moved.append(arrival)
            }
        } catch {
            moved.forEach { $0.takeBack() }
            throw EdgeError(
                .artifact, "the import failed (\(error.localizedDescription)); nothing was installed, try again")
        }
    }

    private func checkSpace(_ arrivals: [Arrival]) throws {
        let system = try? FileManager.default.attributesOfFileSystem(forPath: imported.path)
        let wanted = arrivals.reduce(Self.spareBytes) { min($0 + $1.manifest.totalBytes, Self.mostBytes) }
        guard !arrivals.isEmpty, let free = (system?[.systemFreeSize] as? NSNumber)?.intValue, free < wanted else { return }
        throw EdgeError(.noSpace, "\(names(arrivals)) needs \(wanted) bytes, \(free) are free; make room")
    }

    private func names(_ arrivals: [Arrival]) -> String {
        Set(arrivals.map(\.manifest.model)).sorted().joined(separator: " and ")
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
}
