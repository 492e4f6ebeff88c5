import Foundation
import QwenEdgeCore
import XCTest

final class EventStreamTests: XCTestCase {
    func testTheLinesOfAStreamAreThoseOfPythonByteForByte() throws {
        for golden in try Golden.cases(try Golden.read("streams.json"), "streams") {
            var stream = EventStream()
            var data = Data()
            for event in try Golden.cases(golden, "events") {
                data += event["event"] == "stream" ? stream.line(try start(event)) : stream.line(try timed(event))
            }
            data += stream.end()
            let wanted = try golden.texts("lines").map { $0 + "\n" }.joined()
            assertSame(String(decoding: data, as: UTF8.self), wanted, try golden.text("name"))
            var hash = Hash()
            hash.update(data)
            XCTAssertEqual(hash.hex, try golden.text("sha256"))
        }
    }

    func testTheFiguresOfACaseAreThoseOfPython() throws {
        for golden in try Golden.cases(try Golden.read("streams.json"), "streams") {
            let events = try Golden.cases(golden, "events").filter { $0["event"] != "stream" }.map(timed)
            for metrics in try XCTUnwrap(golden["metrics"]?.object).fields {
                let found = Statistics(events), wanted = try XCTUnwrap(metrics.value.object)
                let load = wanted["load_cold_ms"]?.double ?? wanted["load_warm_ms"]?.double
                XCTAssertEqual(found.loadMs, load)
                XCTAssertEqual(found.timeToFirstTokenMs, wanted["ttft_ms"]?.double)
                XCTAssertEqual(found.prefillTokensPerSecond, wanted["prefill_tok_s"]?.double)
                XCTAssertEqual(found.timePerTokenMs, wanted["tpot_ms"]?.double)
                XCTAssertEqual(found.stepP50Ms, wanted["tpot_p50_ms"]?.double)
                XCTAssertEqual(found.stepP90Ms, wanted["tpot_p90_ms"]?.double)
                XCTAssertEqual(found.stepP99Ms, wanted["tpot_p99_ms"]?.double)
                assertClose(found.decodeTokensPerSecond, wanted["decode_tok_s"]?.double)
            }
        }
    }

    func testTheClockOfEventsRunsForward() {
        let first = TimedEvent(.loadStart), second = TimedEvent(.loadEnd)
        XCTAssertGreaterThanOrEqual(second.atNanoseconds, first.atNanoseconds)
        XCTAssertGreaterThanOrEqual(first.atNanoseconds, 0)
    }

    private func assertClose(_ found: Double?, _ wanted: Double?) {
        XCTAssertEqual(found == nil, wanted == nil)
        if let found, let wanted { XCTAssertEqual(found, wanted, accuracy: wanted * 1e-12) }
    }

    private func start(_ event: JSONObject) throws -> StreamStart {
        StreamStart(
            runner: try event.text("runner"), runtime: try event.text("runtime"),
            requested: try settings(try XCTUnwrap(event["requested"]?.object)),
            effective: try settings(try XCTUnwrap(event["effective"]?.object)), atNanoseconds: try event.integer("at_ns"))
    }

    private func settings(_ object: JSONObject) throws -> RunnerSettings {
        RunnerSettings(
            backend: object["backend"]?.string, threads: object["threads"]?.integer,
            affinity: object["affinity"]?.array?.compactMap(\.integer), details: try XCTUnwrap(object["details"]?.object))
    }

    private func timed(_ object: JSONObject) throws -> TimedEvent {
        TimedEvent(try event(object), atNanoseconds: try object.integer("at_ns"))
    }

    private func event(_ object: JSONObject) throws -> Event {
        switch try object.text("event") {
        case "case_start":
            .caseStart(name: try object.text("case"), kind: try XCTUnwrap(CaseKind(rawValue: try object.text("kind"))))
        case "case_end": .caseEnd(name: try object.text("case"))
        case "load_start": .loadStart
        case "load_end": .loadEnd
        case "submit": .submit(promptTokens: try object.integer("prompt_tokens"))
        case "prefill_start": .prefillStart(position: try object.integer("position"), tokens: try object.integer("tokens"))
        case "prefill_end": .prefillEnd(position: try object.integer("position"), tokens: try object.integer("tokens"))
        case "token": .token(index: try object.integer("index"), token: try object.integer("token"))
        case "stop":
            .stop(
                reason: try XCTUnwrap(StopReason(rawValue: try object.text("reason"))), tokens: try object.integer("tokens"))
        case "sample":
            .sample(
                kind: try XCTUnwrap(SampleKind(rawValue: try object.text("kind"))), source: try object.text("source"),
                values: try XCTUnwrap(object["values"]?.object))
        case "marker": .marker(name: try object.text("name"))
        default: .error(what: try object.text("what"))
        }
    }
}
