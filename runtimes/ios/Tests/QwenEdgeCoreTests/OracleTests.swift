import Foundation
import QwenEdgeCore
import XCTest

final class OracleTests: XCTestCase {
    func testAnswersAreJudgedAsInPython() throws {
        let golden = try Golden.read("oracle.json")
        let manifest = try readManifest(try Golden.bytes("manifest.json"))
        for entry in try Golden.cases(golden, "oracles") {
            let oracle = try XCTUnwrap(try Oracle(try bytes(entry), for: manifest))
            for answer in try Golden.cases(golden, "answers") {
                let name = try answer.text("name")
                let report = oracle.compare(try logits(answer, oracle))
                XCTAssertEqual(
                    report.relativeMaxError, try XCTUnwrap(answer["relative_max_error"]?.double), accuracy: 1e-9, name)
                XCTAssertEqual(report.meanDivergence, try XCTUnwrap(answer["mean_kld"]?.double), accuracy: 1e-9, name)
                let isRefused = try answer.texts("refused_by").contains(try entry.text("kind"))
                XCTAssertEqual(report.problem != nil, isRefused, "\(name): \(report.problem ?? "accepted")")
            }
        }
    }

    func testAnswersThatAreNoNumbersAreRefused() throws {
        let (oracle, _) = try quantized()
        let answers = Dictionary(uniqueKeysWithValues: oracle.expected.map { ($0.position, [Float](repeating: .nan, count: 306)) })
        XCTAssert(try XCTUnwrap(oracle.compare(answers).problem).contains("finite"))
        XCTAssertNotNil(oracle.compare([:]).problem)
    }

    func testAnOracleOfOtherArtifactsIsNone() throws {
        let (_, bytes) = try quantized()
        let text = String(decoding: try Golden.bytes("manifest.json"), as: UTF8.self)
        let other = text.replacingOccurrences(of: "\"threads\": 1", with: "\"threads\": 2")
        XCTAssertNil(try Oracle(bytes, for: try readManifest(Array(other.utf8))))
    }

    func testAnOracleThatIsNoneIsRefused() throws {
        let (_, bytes) = try quantized()
        let manifest = try readManifest(try Golden.bytes("manifest.json"))
        let text = String(decoding: bytes, as: UTF8.self)
        for (old, new) in [
            ("\"format\": 1", "\"format\": 2"), ("\"mean_kld\"", "\"guess\""), ("\"value\": 0.001", "\"value\": 7"),
            ("\"prefill_tokens\": 8", "\"prefill_tokens\": 80"), ("{", "["),
        ] {
            let changed = text.replacingOccurrences(of: old, with: new)
            XCTAssertNotEqual(changed, text, old)
            assertError(.oracle, new) { _ = try Oracle(Array(changed.utf8), for: manifest) }
        }
    }

    private func quantized() throws -> (Oracle, [UInt8]) {
        let entry = try XCTUnwrap(try Golden.cases(try Golden.read("oracle.json"), "oracles").last)
        let manifest = try readManifest(try Golden.bytes("manifest.json"))
        return (try XCTUnwrap(try Oracle(try bytes(entry), for: manifest)), try bytes(entry))
    }

    private func bytes(_ entry: JSONObject) throws -> [UInt8] {
        Array(JSONWriter().write(try XCTUnwrap(entry["file"])).utf8)
    }

    private func logits(_ answer: JSONObject, _ oracle: Oracle) throws -> [Int: [Float]] {
        let rows = try answer.list("logits").map { row in
            try XCTUnwrap(row.array).map { Float(try XCTUnwrap($0.double)) }
        }
        return Dictionary(uniqueKeysWithValues: zip(oracle.expected.map(\.position), rows))
    }
}
