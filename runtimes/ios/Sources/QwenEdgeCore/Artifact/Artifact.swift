import Foundation

/// A directory whose manifest was read and whose files have the promised lengths.
public struct Artifact: Sendable {
    public let directory: URL
    public let manifest: Manifest

    /// Check the manifest, and that each file is there with the promised length; hashes are for `checkHashes`.
    public init(at directory: URL) throws {
        self.directory = directory
        let place = directory.appending(path: Manifest.fileName)
        guard FileManager.default.fileExists(atPath: place.path) else {
            throw EdgeError(.artifact, "\(directory.lastPathComponent): no \(Manifest.fileName) here, so no finished artifact")
        }
        manifest = try readManifest(try readBytes(place, atMost: Manifest.maxBytes))
        for entry in manifest.files { try checkLength(entry) }
    }

    /// The name of its directory.
    public var name: String { directory.lastPathComponent }

    public var chatTemplateFile: String? { manifest.chatTemplateFile }

    /// The place of a file of the artifact, refused if a symbolic link leads it outside.
    public func place(of path: String) throws -> URL {
        let place = directory.appending(path: path)
        let inside = directory.resolvingSymlinksInPath().path + "/"
        guard place.resolvingSymlinksInPath().path.hasPrefix(inside) else {
            throw EdgeError(.manifest, "\(name): '\(path)' leads outside the artifact; import it again")
        }
        return place
    }

    /// The bytes of a small file of the artifact.
    public func read(_ path: String, atMost limit: Int) throws -> [UInt8] {
        try readBytes(try place(of: path), atMost: limit)
    }

    /// Read every file whole and compare its SHA-256; takes a second per gigabyte or more. `onProgress` gets the bytes
    /// read so far and may throw to end the work.
    public func checkHashes(onProgress: (Int) throws -> Void = { _ in }) throws {
        var done = 0
        for entry in manifest.files {
            let found = try digest(of: try place(of: entry.path)) { count in
                done += count
                try onProgress(done)
            }
            if found.sha256 != entry.sha256 {
                throw EdgeError(
                    .fileMismatch,
                    "\(name)/\(entry.path): its SHA-256 is not that of the manifest; copy or import it again")
            }
        }
    }

    /// The special tokens by name, such as `eos_token`, from `tokenizer_config.json` where the artifact has one.
    func specialTokens() throws -> JSONObject {
        guard let path = manifest.files.map(\.path).first(where: { $0.split(separator: "/").last == "tokenizer_config.json" })
        else { return JSONObject() }
        let config: JSON
        do {
            config = try JSONReader.document(try read(path, atMost: Manifest.maxBytes))
        } catch let error as JSONError {
            throw EdgeError(.chatTemplate, "\(name)/\(path): not JSON: \(error); import the bundle again")
        }
        var found = JSONObject()
        for token in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            let value = config.object?[token]
            found[token] = (value?.object?["content"] ?? value)?.string.map(JSON.string)
        }
        return found
    }

    private func checkLength(_ entry: FileEntry) throws {
        let place = try place(of: entry.path)
        guard let length = lengthOfFile(place) else {
            throw EdgeError(.fileMismatch, "\(name)/\(entry.path): listed in the manifest but missing; copy it again")
        }
        guard length == entry.bytes else {
            throw EdgeError(
                .fileMismatch, "\(name)/\(entry.path): \(length) bytes, the manifest says \(entry.bytes); copy it again")
        }
    }
}
