import Foundation
import QwenEdgeCore
import XCTest

/// A model whose logits are the sum of what it has read, so that any token lost or read twice shows. It has two packages;
/// one state is kept by the runtime, the other goes in and out.
private final class SummingRunner: FunctionRunner {
    struct Failure: Error {}

    let name = "a sum"
    let chunk: Int
    private var kept: Float = 0
    private(set) var calls: [String] = []
    var failsAt: Int?

    init(chunk: Int) { self.chunk = chunk }

    func inputNames(package: String, function: String) -> [String] {
        let length = function == "prefill" ? ["length"] : []
        return package == "first" ? ["input_ids", "position"] + length : ["hidden_1", "position", "state_in"] + length
    }

    func tensor(_ values: [Int32], shape: [Int]) -> [Float] { values.map(Float.init) }
    func tensor(_ values: [Float], shape: [Int], for input: FunctionInput) -> [Float] { values }
    func zeros(for state: FunctionLayout.State) -> [Float] { [0] }
    func numbers(_ tensor: [Float], last count: Int) -> [Float] { Array(tensor.suffix(count)) }
    func copyStates(filled: Int) -> Float { kept }
    func write(_ states: Float) { kept = states }
    func reset() { kept = 0 }

    func call(package: String, function: String, inputs: [String: [Float]]) throws -> [String: [Float]] {
        calls.append("\(package).\(function)")
        if calls.count == failsAt { throw Failure() }
        guard let ids = inputs["input_ids"] else {
            let sum = inputs["state_in"]![0] + inputs["hidden_1"]![0]
            return ["state_out": [sum], "logits": [sum, kept, inputs["position"]![0]]]
        }
        XCTAssertEqual(ids.count, function == "prefill" ? chunk : 1)
        let sum = ids.prefix(Int(inputs["length"]?[0] ?? 1)).reduce(0, +)
        kept += sum
        return ["hidden_1": [sum]]
    }
}

private final class RecallingRunner: TokenRunner {
    let name = "a memory"
    private(set) var read: [Int] = []
    private(set) var count = 0
    var fails = false

    func run(_ tokens: [Int], after position: Int) throws -> [Float] {
        if fails { throw EdgeError(.engine, "no") }
        read = (position == 0 ? [] : read) + tokens
        XCTAssertEqual(read.count, position + tokens.count)
        count += tokens.count
        return [Float(read.reduce(0, +)), Float(tokens.count), 0]
    }
}

final class FunctionEngineTests: XCTestCase {
    private static let layout = FunctionLayout(
        decode: "decode", prefill: "prefill",
        states: [
            FunctionLayout.State(
                name: "state", shape: [1], dtype: .float16, inputName: "state_in", outputName: "state_out", tokenAxis: nil),
            FunctionLayout.State(
                name: "kept", shape: [1], dtype: .float16, inputName: nil, outputName: nil, tokenAxis: nil),
        ])

    func testPromptsGoInChunksAndNothingIsLost() throws {
        let (engine, runner) = try make()
        XCTAssertEqual(try engine.forward([1, 2, 2]), [5, 5, 0])
        XCTAssertEqual(try engine.forward([2]), [7, 7, 3])
        XCTAssertEqual(runner.calls, ["first.prefill", "second.prefill", "first.decode", "second.decode"])
        XCTAssertEqual(engine.position, 4)
    }

    func testTheLastPlacesOfTheContextAreReadOneByOne() throws {
        let (engine, runner) = try make()
        _ = try engine.forward([1, 1, 1, 1])
        _ = try engine.forward([1, 1, 1])
        XCTAssertEqual(try engine.forward([1, 1, 1]), [10, 10, 9])
        XCTAssertEqual(runner.calls.filter { $0 == "second.decode" }.count, 3)
        assertError(.contextLimit, "full") { _ = try engine.forward([1]) }
    }

    func testASnapshotBringsBothKindsOfStateBack() throws {
        let (engine, _) = try make()
        _ = try engine.forward([1, 2])
        let snapshot = try engine.snapshot()
        _ = try engine.forward([2, 2])
        try engine.restore(snapshot)
        XCTAssertEqual(engine.position, 2)
        XCTAssertEqual(try engine.forward([1]), [4, 4, 2])
        let (other, _) = try make()
        assertError(.engine, "another engine's") { try other.restore(snapshot) }
    }

    func testAfterAFailureTheStateIsNotUsed() throws {
        let (engine, runner) = try make()
        runner.failsAt = 2
        XCTAssertThrowsError(try engine.forward([1, 2]))
        XCTAssert(assertError(.engine, "half written") { _ = try engine.forward([1]) }.contains("half written"))
        try engine.reset()
        XCTAssertEqual(try engine.forward([2]), [2, 2, 0])
    }

    func testTokensThatNobodyKnowsAreRefused() throws {
        let (engine, _) = try make()
        for tokens in [[], [3], [-1], [1, 1, 1, 1, 1]] {
            assertError(.engine, "\(tokens)") { _ = try engine.forward(tokens) }
        }
        XCTAssertEqual(engine.position, 0)
    }

    private func make() throws -> (FunctionEngine<SummingRunner>, SummingRunner) {
        let runner = SummingRunner(chunk: 4)
        let engine = try FunctionEngine(
            runner, packages: ["first", "second"], layout: Self.layout, manifest: try smallManifest(contextLength: 10))
        return (engine, runner)
    }
}

final class ReplayingEngineTests: XCTestCase {
    func testGoingBackReadsTheTokensAgain() throws {
        let runner = RecallingRunner()
        let engine = ReplayingEngine(runner, manifest: try smallManifest(contextLength: 10))
        _ = try engine.forward([1, 2, 1, 2])
        let snapshot = engine.snapshot()
        _ = try engine.forward([2])
        try engine.restore(snapshot)
        XCTAssertEqual(engine.position, 4)
        XCTAssertEqual(runner.count, 5, "nothing is read before it is wanted")
        XCTAssertEqual(try engine.forward([1])[0], 7)
        XCTAssertEqual(runner.count, 10)
    }

    func testAfterAFailureEverythingIsReadAgain() throws {
        let runner = RecallingRunner()
        let engine = ReplayingEngine(runner, manifest: try smallManifest(contextLength: 10))
        _ = try engine.forward([1, 2])
        runner.fails = true
        XCTAssertThrowsError(try engine.forward([1]))
        runner.fails = false
        XCTAssertEqual(try engine.forward([1])[0], 4)
        engine.reset()
        XCTAssertEqual(try engine.forward([2])[0], 2)
    }
}

final class StateBytesTests: XCTestCase {
    func testOnlyFilledRowsOfACacheCount() {
        let cache = StateBytes(shape: [1, 2, 8, 3], elementBytes: 2, tokenAxis: 2, filled: 5)
        XCTAssertEqual(cache.ranges, [0..<30, 48..<78])
        XCTAssertEqual(cache.count, 60)
        XCTAssertEqual(StateBytes(shape: [1, 2, 8, 3], elementBytes: 2, tokenAxis: 2, filled: 8).ranges, [0..<96])
        XCTAssertEqual(StateBytes(shape: [1, 2, 8, 3], elementBytes: 2, tokenAxis: 2, filled: 0).ranges, [])
        XCTAssertEqual(StateBytes(shape: [1, 4, 4], elementBytes: 2, tokenAxis: nil, filled: 1).ranges, [0..<32])
    }
}

final class WayFinderTests: XCTestCase {
    private var scratch: Scratch!

    override func setUpWithError() throws { scratch = try Scratch() }

    func testTheFirstWayThatAnswersRightIsTakenAndRemembered() throws {
        var opened: [String] = []
        for _ in 0..<2 {
            let engine = try open(["inside", "outside", "cpu"]) { way in
                opened.append(way)
                return try self.engine(isRight: way == "outside")
            }
            XCTAssertEqual(engine.name, "right")
        }
        XCTAssertEqual(opened, ["inside", "outside", "outside"])
    }

    func testAWayThatEndsTheAppIsNotTriedAgain() throws {
        var opened: [String] = []
        XCTAssertThrowsError(
            try open(["inside", "outside"]) { way in
                opened.append(way)
                try self.killed()
                throw EdgeError(.engine, "never returns")
            })
        opened = []
        _ = try open(["inside", "outside"], system: "18.5") { way in
            opened.append(way)
            return try self.engine(isRight: true)
        }
        XCTAssertEqual(opened, ["inside"], "a new system gives every way another chance")
        try restoreKilled()
        opened = []
        _ = try open(["inside", "outside"]) { way in
            opened.append(way)
            return try self.engine(isRight: true)
        }
        XCTAssertEqual(opened, ["outside"])
    }

    func testAnotherVersionOfTheAppGivesEveryWayAnotherChance() throws {
        assertError(.oracle, "no way") { _ = try self.open(["cpu"]) { _ in try self.engine(isRight: false) } }
        var opened: [String] = []
        assertError(.oracle, "still none") {
            _ = try self.open(["cpu"]) { way in
                opened.append(way)
                return try self.engine(isRight: true)
            }
        }
        XCTAssertEqual(opened, [])
        XCTAssertEqual(try open(["cpu"], app: "2") { _ in try self.engine(isRight: true) }.name, "right")
    }

    func testANoteThatIsEmptyOrHalfWrittenSaysNothing() throws {
        assertError(.oracle, "no way") { _ = try self.open(["cpu"]) { _ in try self.engine(isRight: false) } }
        let names = try FileManager.default.contentsOfDirectory(atPath: scratch.folder.path)
        let note = scratch.folder.appending(path: try XCTUnwrap(names.first { $0.hasSuffix(".json") }))
        for text in ["", "{\"chosen\": nu"] {
            try Data(text.utf8).write(to: note)
            XCTAssertEqual(try open(["cpu"]) { _ in try self.engine(isRight: true) }.name, "right")
        }
    }

    func testWhereNoWayAnswersRightTheReasonsAreTold() throws {
        let message = assertError(.oracle, "no way") {
            _ = try self.open(["inside", "cpu"]) { way in
                if way == "cpu" { throw EdgeError(.engine, "does not compile") }
                return try self.engine(isRight: false)
            }
        }
        XCTAssert(message.contains("cpu: does not compile"), message)
        XCTAssert(message.contains("inside: the mean divergence"), message)
    }

    // MARK: What the tests are made of

    private var kept: Data?

    /// The note as a process leaves it that is killed while it tries a way.
    private func killed() throws {
        let names = try FileManager.default.contentsOfDirectory(atPath: scratch.folder.path)
        let note = try XCTUnwrap(names.first { $0.hasSuffix(".json") })
        kept = try kept ?? Data(contentsOf: scratch.folder.appending(path: note))
    }

    private func restoreKilled() throws {
        for name in try FileManager.default.contentsOfDirectory(atPath: scratch.folder.path) where name.contains("18.4") {
            try XCTUnwrap(kept).write(to: scratch.folder.appending(path: name))
        }
    }

    private func open(
        _ ways: [String], system: String = "18.4", app: String = "1", _ make: (String) throws -> any Engine
    ) throws -> any Engine {
        let artifact = try Artifact(at: try TinyArtifact.write(to: scratch.folder.appending(path: ".tiny")))
        let finder = WayFinder(folder: scratch.folder, system: system, app: app)
        return try finder.open(artifact, ways: ways, oracle: try oracle(), open: make)
    }

    private func oracle() throws -> Oracle {
        let entry = try XCTUnwrap(try Golden.cases(try Golden.read("oracle.json"), "oracles").last)
        let bytes = Array(JSONWriter().write(try XCTUnwrap(entry["file"])).utf8)
        return try XCTUnwrap(try Oracle(bytes, for: try readManifest(try Golden.bytes("manifest.json"))))
    }

    private func engine(isRight: Bool) throws -> any Engine {
        let answers = try Golden.cases(try Golden.read("oracle.json"), "answers")
        let wanted = isRight ? "exact" : "another model"
        let answer = try XCTUnwrap(answers.first { $0["name"]?.string == wanted })
        let rows = try answer.list("logits").map { row in
            try XCTUnwrap(row.array).map { Float(try XCTUnwrap($0.double)) }
        }
        return RowsEngine(rows, name: isRight ? "right" : "wrong")
    }
}

/// Answers with given rows, one a call.
private final class RowsEngine: Engine {
    let contextLength = 256, vocabSize = 306, prefillChunk = 32
    let name: String
    private(set) var position = 0
    private var rows: ArraySlice<[Float]>

    init(_ rows: [[Float]], name: String) {
        self.rows = rows[...]
        self.name = name
    }

    func forward(_ tokens: [Int]) throws -> [Float] {
        position += tokens.count
        return try XCTUnwrap(rows.popFirst())
    }

    func reset() { position = 0 }
    func snapshot() -> any Snapshot { ScriptedEngine.At(position: position, written: 0) }
    func restore(_ snapshot: any Snapshot) { position = snapshot.position }
}

/// The golden manifest with three tokens and chunks of four.
func smallManifest(contextLength: Int) throws -> Manifest {
    var manifest = try Golden.read("manifest.json")
    manifest["context_length"] = .integer(contextLength)
    manifest["vocab_size"] = 3
    manifest["eos_token_ids"] = [0]
    manifest["pad_token_id"] = .null
    manifest["prefill_chunk"] = 4
    manifest["state"] = []
    return try readManifest(Array(JSONWriter().write(.object(manifest)).utf8))
}

final class CoreMLDescriptionTests: XCTestCase {
    func testAnArtifactsDescriptionIsReadAsUntrusted() throws {
        let scratch = try Scratch()
        let description = try CoreMLDescription(of: try artifact(scratch, Self.text))
        XCTAssertEqual(description.packages, ["model.mlpackage"])
        XCTAssertEqual(description.layouts.map(\.name), ["outside", "inside"])
        XCTAssertEqual(description.layout("inside")?.states.first?.tokenAxis, 2)
        for (old, new) in [
            ("\"format\": 1", "\"format\": 2"), ("\"decode\": 1", "\"decode\": 2"), ("\"outside\",", "\"beside\","),
            ("[\"model.mlpackage\"]", "[\"../model\"]"), ("[\"model.mlpackage\"]", "[\"other.mlpackage\"]"),
            ("\"output_name\": \"s_out\"", "\"output_name\": null"), ("\"token_axis\": 2", "\"token_axis\": 4"),
            ("{", "["),
        ] {
            let changed = Self.text.replacingOccurrences(of: old, with: new)
            XCTAssertNotEqual(changed, Self.text, old)
            assertError(.artifact, new) { _ = try CoreMLDescription(of: try self.artifact(scratch, changed)) }
        }
    }

    private static let text = """
        {"format": 1, "packages": ["model.mlpackage"], "tokens": {"decode": 1, "prefill": 64}, "default_layout": "outside",
        "layouts": {
        "inside": {"functions": {"decode": "decode", "prefill": "prefill"}, "states": [{"name": "k", "kind": "key",
        "layer": 3, "shape": [1, 2, 256, 64], "dtype": "float16", "token_axis": 2, "input_name": null, "output_name": null}]},
        "outside": {"functions": {"decode": "decode_outside", "prefill": "prefill_outside"}, "states": [{"name": "s",
        "kind": "conv", "layer": 0, "shape": [1, 4, 32], "dtype": "float16", "token_axis": null, "input_name": "s",
        "output_name": "s_out"}]}}}
        """

    private func artifact(_ scratch: Scratch, _ text: String) throws -> Artifact {
        let place = try TinyArtifact.write(to: scratch.folder.appending(path: UUID().uuidString)) { manifest in
            let data = Data(text.utf8)
            var hash = Hash()
            hash.update(data)
            let entries: [JSON] = ["coreml.json", "model.mlpackage/Manifest.json"].map { path in
                ["path": .string(path), "bytes": .integer(data.count), "sha256": .string(hash.hex)]
            }
            manifest["files"] = .array((manifest["files"]?.array ?? []) + entries)
            manifest["model_file"] = "coreml.json"
        }
        let package = place.appending(path: "model.mlpackage")
        try FileManager.default.createDirectory(at: package, withIntermediateDirectories: true)
        for file in [place.appending(path: "coreml.json"), package.appending(path: "Manifest.json")] {
            try Data(text.utf8).write(to: file)
        }
        return try Artifact(at: place)
    }
}
