import QwenEdgeCore
import XCTest

final class SamplingTests: XCTestCase {
    func testTheGeneratorGivesTheNumbersOfPython() throws {
        for entry in try Golden.cases(try Golden.read("sampling.json"), "generator") {
            let seed = UInt64(try entry.integer("seed"))
            var bits = SplitMix64(seed: seed), numbers = SplitMix64(seed: seed)
            let wanted = try entry.texts("bits_hex").map { UInt64($0, radix: 16) }
            XCTAssertEqual(wanted.map { _ in bits.bits() }, wanted)
            XCTAssertEqual(try entry.doubles("uniform").map { _ in numbers.uniform() }, try entry.doubles("uniform"))
        }
    }

    func testTheSameSeedDrawsTheSameTokensAsInPython() throws {
        for entry in try Golden.cases(try Golden.read("sampling.json")) {
            let name = try entry.text("name")
            let logits = try entry.doubles("logits").map { Float($0) }
            let history = try entry.integers("history")
            let sampling = try makeSampling(try XCTUnwrap(entry["settings"]?.object))
            var sampler = Sampler(sampling)
            let picks = try entry.integers("picks")
            XCTAssertEqual(try picks.map { _ in try sampler.choose(logits, history: history) }, picks, name)
            guard sampling.temperature > 0 else { continue }
            let scores = penalized(logits, history: history, penalty: sampling.repetitionPenalty)
            let found = candidates(scores, sampling)
            XCTAssertEqual(found.ids, try entry.integers("candidates"), name)
            XCTAssertEqual(found.scores, try entry.doubles("scores").map { Float($0) }, name)
            for (weight, wanted) in zip(found.weights(), try entry.doubles("weights")) {
                XCTAssertEqual(weight, wanted, accuracy: wanted * 1e-15, name)  // `exp` may differ in its last bit
            }
        }
    }

    func testSettingsOutsideTheirRangeAreRefused() throws {
        for entry in try Golden.cases(try Golden.read("sampling.json"), "refused") {
            let name = try entry.text("setting")
            var settings = JSONObject()
            settings[name] = entry["value"]
            let message = assertError(.sampling, name) { _ = try makeSampling(settings) }
            XCTAssert(message.hasPrefix(name), message)
        }
    }

    func testLogitsThatAreNoNumbersAreAnError() {
        var sampler = Sampler(.greedy)
        assertError(.engine, "NaN") { _ = try sampler.choose([0, .nan, 1], history: []) }
    }
}

/// Sampling settings by their names in Python.
func makeSampling(_ settings: JSONObject) throws -> Sampling {
    try Sampling(
        temperature: settings["temperature"]?.double ?? 0, topK: settings["top_k"]?.integer ?? 0,
        topP: settings["top_p"]?.double ?? 1, minP: settings["min_p"]?.double ?? 0,
        repetitionPenalty: settings["repetition_penalty"]?.double ?? 1, seed: settings["seed"]?.integer)
}
