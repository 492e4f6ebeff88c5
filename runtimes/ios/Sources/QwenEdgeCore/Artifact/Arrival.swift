import Foundation

/// An artifact on its way from `source` by the hidden folder `partial` to `target`.
struct Arrival {
    /// What hidden folders of an import begin with.
    static let prefix = ".partial-"

    let manifest: Manifest
    let partial: URL
    let target: URL
    private let source: URL
    private let bytes: [UInt8]
    private let oracle: URL?

    /// Nothing of a source is believed before it was checked; its manifest is read here, its files by `copyAll`.
    init(from source: URL, into folder: URL) throws {
        self.source = source
        bytes = try readBytes(source.appending(path: Manifest.fileName), atMost: Manifest.maxBytes)
        manifest = try readManifest(bytes)
        // what the bundle expects its artifacts to answer, by which the app checks them on this device
        oracle = try Oracle.file(in: source) ?? Oracle.file(in: source.deletingLastPathComponent())
        let name = [manifest.model, manifest.scheme, manifest.backend, String(manifest.sha256.prefix(8))]
        partial = folder.appending(path: Self.prefix + manifest.sha256)
        target = folder.appending(path: name.joined(separator: "-"))
    }

    var isInstalled: Bool { FileManager.default.fileExists(atPath: target.path) }

    /// Copy every file, and compare it with what the manifest promises on the way.
    func copyAll(onBytes: (Int) throws -> Void) throws {
        try FileManager.default.createDirectory(at: partial, withIntermediateDirectories: true)
        for entry in manifest.files {
            let place = partial.appending(path: entry.path), original = source.appending(path: entry.path)
            guard lengthOfFile(original) == entry.bytes else {
                throw EdgeError(.fileMismatch, "\(entry.path) is missing or of another length; copy the bundle anew")
            }
            try FileManager.default.createDirectory(
                at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data().write(to: place)
            let file = try FileHandle(forWritingTo: place)
            defer { try? file.close() }
            let found = try digest(of: original, copyingTo: file, onPiece: onBytes)
            guard found.bytes == entry.bytes, found.sha256 == entry.sha256 else {
                throw EdgeError(.fileMismatch, "\(entry.path) differs from what its manifest promises; copy it anew")
            }
        }
    }

    /// Make an artifact of the files that were copied.
    func seal() throws {
        if let oracle { try FileManager.default.copyItem(at: oracle, to: partial.appending(path: Oracle.fileName)) }
        try Data(bytes).write(to: partial.appending(path: Manifest.fileName))
    }

    func move() throws { try FileManager.default.moveItem(at: partial, to: target) }

    func takeBack() { try? FileManager.default.removeItem(at: target) }

    func cleanUp() { try? FileManager.default.removeItem(at: partial) }

    /// Give the oracle to an artifact that is here already, so that one imported alone is asked from now on.
    func addOracle() throws {
        guard let oracle else { return }
        let bytes = try readBytes(oracle, atMost: Oracle.maxBytes)
        try Data(bytes).write(to: target.appending(path: Oracle.fileName), options: .atomic)
    }
}
