import Foundation
import QwenEdgeCore
import XCTest

final class BenchmarkTests: XCTestCase {
    private struct FakeCounters: Counters {
        func read(_ kind: SampleKind) -> [(source: String, values: JSONObject)] {
            [("test", ["phys_footprint_bytes": 1_000_000])]
        }
    }

    private static let cases = """
        {"version": 1, "threads": null, "affinity": null, "cases": [
        {"case": "warm-p8", "kind": "warm", "prompt": [1, 2, 3, 4, 5, 6, 7, 8], "text": "Once upon a time", "new_tokens": 5,
        "warm_ups": 1, "repeats": 2, "duration_ms": null, "drop_page_cache": false, "idle_ms": null,
        "sample_interval_ms": null, "samples": []},
        {"case": "memory-p3", "kind": "warm", "prompt": [1, 2, 3], "text": null, "new_tokens": 3, "warm_ups": 0,
        "repeats": 1, "duration_ms": null, "drop_page_cache": true, "idle_ms": 20, "sample_interval_ms": 10,
        "samples": ["memory"]}]}
        """

    private var scratch: Scratch!

    override func setUpWithError() throws { scratch = try Scratch() }

    /// The device lab's own parser reads what this test leaves at `QWEN_EDGE_STREAM`.
    func testTheStreamOfARunIsWhole() throws {
        let lines = try run { _ in ScriptedEngine([5, 6, 7, 8, 9]) }
        let names = try lines.map { try $0.text("event") }
        XCTAssertEqual(names.first, "stream")
        XCTAssertEqual(names.last, "end")
        XCTAssertEqual(names.filter { $0 == "submit" }.count, 3)
        XCTAssertEqual(names.filter { $0 == "token" }.count, 13)
        XCTAssertEqual(lines.filter { $0["name"] == "warm_up_start" }.count, 1)
        XCTAssertEqual(lines.last?["lines"]?.integer, lines.count - 1)
    }

    func testAnEngineThatFailsEndsTheStreamWithAnErrorAndASeal() throws {
        let lines = try run { _ in throw EdgeError(.memory, "no memory for the weights") }
        XCTAssertEqual(lines[lines.count - 2]["event"], "error")
        XCTAssert(try lines[lines.count - 2].text("what").contains("no memory for the weights"))
        XCTAssertEqual(lines.last?["event"], "end")
    }

    func testCasesThatMeasureNothingAreRefused() throws {
        let place = scratch.folder.appending(path: "cases.json")
        for (old, new) in [
            ("\"new_tokens\": 5", "\"new_tokens\": 0"), ("\"version\": 1", "\"version\": 2"),
            ("\"kind\": \"warm\"", "\"kind\": \"hot\""), ("\"prompt\": [1, 2, 3]", "\"prompt\": []"), ("{", "["),
        ] {
            let text = Self.cases.replacingOccurrences(of: old, with: new)
            try Data(text.utf8).write(to: place)
            assertError(.cases, new) { _ = try CaseFile(place) }
        }
    }

    private func run(_ make: @escaping @Sendable (Artifact) throws -> any Engine) throws -> [JSONObject] {
        let folder = scratch.folder
        let artifact = try Artifact(at: try TinyArtifact.write(to: folder.appending(path: "tiny")))
        let cases = folder.appending(path: "cases.json")
        try Data(Self.cases.utf8).write(to: cases)
        let given = ProcessInfo.processInfo.environment["QWEN_EDGE_STREAM"]
        let out = given.map { URL(filePath: $0) } ?? folder.appending(path: "events.jsonl")
        try Data().write(to: out)
        let file = try FileHandle(forWritingTo: out)
        try BenchmarkRunner(artifact, Engines([FakeFactory(make: make)]), FakeCounters()).run(try CaseFile(cases), to: file)
        try file.close()
        return try Data(contentsOf: out).split(separator: UInt8(ascii: "\n")).map { line in
            try XCTUnwrap(try JSONReader.document(Array(line)).object)
        }
    }
}
