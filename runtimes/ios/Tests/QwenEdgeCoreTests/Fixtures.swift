import Foundation
import QwenEdgeCore
import XCTest

/// A folder of this test alone, gone afterwards.
final class Scratch {
    let folder: URL

    init() throws {
        folder = FileManager.default.temporaryDirectory.appending(path: "qwen-edge-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(at: folder) }
}

/// An artifact of the tiny model without weights, as an exporter would leave it.
enum TinyArtifact {
    static let eosTokenId = 2018

    /// Writes it into a new folder; `change` may spoil its manifest.
    @discardableResult
    static func write(
        to folder: URL, contextLength: Int = 256, change: (inout JSONObject) throws -> Void = { _ in }
    ) throws -> URL {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let tiny = Golden.place("export/models/tiny")
        let contents = [
            ("model.bin", Data(repeating: 7, count: 3000)),
            ("tokenizer.json", try Data(contentsOf: tiny.appending(path: "tokenizer.json"))),
            ("chat_template.jinja", try Data(contentsOf: tiny.appending(path: "chat_template.jinja"))),
        ]
        for (name, data) in contents { try data.write(to: folder.appending(path: name)) }
        var manifest = try Golden.read("manifest.json")
        manifest["context_length"] = .integer(contextLength)
        manifest["vocab_size"] = 2048
        manifest["eos_token_ids"] = [2018, 2016]
        manifest["pad_token_id"] = 2016
        manifest["model_file"] = "model.bin"
        manifest["reference_file"] = .null
        manifest["state"] = []
        manifest["runtime"] = ["name": "fake", "version": "1.0", "oldest_version": "1.0"]
        manifest["files"] = .array(contents.map { entry($0.0, $0.1) })
        try change(&manifest)
        try Data(JSONWriter().write(.object(manifest)).utf8).write(to: folder.appending(path: Manifest.fileName))
        return folder
    }

    private static func entry(_ name: String, _ data: Data) -> JSON {
        var hash = Hash()
        hash.update(data)
        return ["path": .string(name), "bytes": .integer(data.count), "sha256": .string(hash.hex)]
    }
}

/// Writes given tokens, one after the other, whatever it reads; then the end token for ever.
final class ScriptedEngine: Engine {
    struct At: Snapshot {
        let position: Int
        let written: Int
    }

    let contextLength: Int
    let vocabSize = 2048
    let prefillChunk: Int
    let name = "a script"
    private(set) var position = 0
    private(set) var calls = 0
    private let tokens: [Int]
    private var written = 0
    /// Called before each call of the model: to fail, or to interfere.
    var before: ([Int]) throws -> Void = { _ in }

    init(_ tokens: [Int], contextLength: Int = 256, prefillChunk: Int = 32) {
        self.tokens = tokens
        self.contextLength = contextLength
        self.prefillChunk = prefillChunk
    }

    func forward(_ tokens: [Int]) throws -> [Float] {
        try check(tokens)
        calls += 1
        try before(tokens)
        position += tokens.count
        written = tokens.count == 1 ? written + 1 : 0
        var logits = [Float](repeating: 0, count: vocabSize)
        logits[written < self.tokens.count ? self.tokens[written] : TinyArtifact.eosTokenId] = 1
        return logits
    }

    func reset() { position = 0 }
    func snapshot() -> any Snapshot { At(position: position, written: written) }

    func restore(_ snapshot: any Snapshot) throws {
        let at = try XCTUnwrap(snapshot as? At)
        (position, written) = (at.position, at.written)
    }
}

/// A runtime that opens whatever `make` gives.
struct FakeFactory: EngineFactory {
    var runtime = "fake"
    var version = "1.0"
    let make: @Sendable (Artifact) throws -> any Engine

    func open(_ artifact: Artifact, threads: Int?) throws -> any Engine { try make(artifact) }
}
