import Foundation
import QwenEdgeCore
import XCTest

final class ConversationTests: XCTestCase {
    func testARecordedChatReplaysCallByCall() throws {
        let recording = try Golden.read("recording.json")
        let engine = try ReplayEngine(recording)
        let eosTokenIds = try recording.integers("eos_token_ids")
        let template = try String(contentsOf: Golden.place(try recording.text("template_file")), encoding: .utf8)
        let voice = Voice(
            tokenizer: try readTokenizer(Golden.place(try recording.text("tokenizer_file"))),
            template: try ChatTemplate(template), options: try XCTUnwrap(recording["options"]?.object))
        let conversation = try Conversation(engine, voice, system: try recording.text("system"))
        for step in try Golden.cases(recording, "script") {
            if step["do"] == "reset" {
                try conversation.reset()
            } else {
                try play(step, on: conversation, try settings(step, eosTokenIds))
            }
        }
        XCTAssert(engine.isOver, "fewer calls than in Python")
    }

    func testTextOfAnyScriptStreamsWholeAndNoPieceSplitsACharacter() throws {
        let golden = try Golden.read("tokenizers.json"), recording = try Golden.read("recording.json")
        let tokenizer = try readTokenizer(Golden.place(try golden.text("tokenizer_file")))
        let template = try String(contentsOf: Golden.place(try recording.text("template_file")), encoding: .utf8)
        let voice = Voice(
            tokenizer: tokenizer, template: try ChatTemplate(template),
            options: try XCTUnwrap(recording["options"]?.object))
        let texts = try Golden.cases(golden).compactMap { $0["text"]?.string }.filter { !$0.contains("\u{FFFD}") && !$0.contains("<|") }
        XCTAssert(texts.contains { $0.contains("👩‍👩‍👧‍👦") } && texts.contains { $0.contains("漢字") })
        for text in texts {
            let engine = ScriptedEngine(tokenizer.encode(text), contextLength: 4096)
            var pieces: [String] = []
            try Conversation(engine, voice).say("?", try Settings(eosTokenIds: [TinyArtifact.eosTokenId])) {
                pieces.append($0.text)
            }
            assertSame(pieces.joined(), tokenizer.decode(tokenizer.encode(text)), "the answer")
            XCTAssertFalse(pieces.contains { $0.contains("\u{FFFD}") }, text)
        }
    }

    private func play(_ step: JSONObject, on conversation: Conversation, _ settings: Settings) throws {
        var pieces: [Piece] = []
        switch try step.text("do") {
        case "say": try conversation.say(try step.text("text"), settings) { pieces.append($0) }
        case "edit_last": try conversation.editLast(try step.text("text"), settings) { pieces.append($0) }
        default: try conversation.regenerate(settings) { pieces.append($0) }
        }
        XCTAssertEqual(pieces.map(\.token), try step.integers("tokens"))
        for (found, wanted) in zip(pieces.map(\.text), try step.texts("pieces")) { assertSame(found, wanted, "piece") }
        XCTAssertEqual(pieces.last?.stop?.rawValue, try step.text("stop"))
    }

    private func settings(_ step: JSONObject, _ eosTokenIds: [Int]) throws -> Settings {
        let given = step["settings"]?.object ?? JSONObject()
        return try Settings(
            eosTokenIds: eosTokenIds, sampling: try makeSampling(given), maxTokens: given["max_tokens"]?.integer,
            stopStrings: given["stop_strings"]?.array?.compactMap(\.string) ?? [])
    }
}

/// An engine that knows one conversation with a real runtime by heart and refuses any other.
private final class ReplayEngine: Engine {
    struct Remembered: Snapshot {
        let id: Int
        let position: Int
    }

    let contextLength: Int
    let vocabSize: Int
    let prefillChunk: Int
    let name = "a recording"
    private(set) var position = 0
    private var calls: ArraySlice<JSONObject>
    private let logits: Data

    init(_ recording: JSONObject) throws {
        contextLength = try recording.integer("context_length")
        vocabSize = try recording.integer("vocab_size")
        prefillChunk = try recording.integer("prefill_chunk")
        calls = try Golden.cases(recording, "calls")[...]
        logits = Data(try Golden.bytes(try recording.text("logits_file")))
    }

    var isOver: Bool { calls.isEmpty }

    func forward(_ tokens: [Int]) throws -> [Float] {
        let call = try next("forward")
        XCTAssertEqual(tokens, try call.integers("tokens"))
        position += tokens.count
        let start = try call.integer("row") * vocabSize * 4
        return (0..<vocabSize).map { index in
            let bytes = logits[(start + index * 4)..<(start + index * 4 + 4)]
            return Float(bitPattern: bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) })
        }
    }

    func reset() throws {
        _ = try next("reset")
        position = 0
    }

    func snapshot() throws -> any Snapshot {
        Remembered(id: try next("snapshot").integer("id"), position: position)
    }

    func restore(_ snapshot: any Snapshot) throws {
        let remembered = try XCTUnwrap(snapshot as? Remembered)
        XCTAssertEqual(try next("restore").integer("id"), remembered.id)
        position = remembered.position
    }

    private func next(_ name: String) throws -> JSONObject {
        let call = try XCTUnwrap(calls.popFirst(), "\(name) after the last recorded call")
        XCTAssertEqual(try call.text("call"), name)
        return call
    }
}
