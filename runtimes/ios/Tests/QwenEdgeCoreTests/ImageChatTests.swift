import Foundation
import QwenEdgeCore
import XCTest

/// A chat with pictures, replayed call by call: the same tokens at the same positions with the same features as in Python.
final class ImageChatTests: XCTestCase {
    private var golden = JSONObject()
    private var vision: VisionPart!

    override func setUpWithError() throws {
        golden = try Golden.read("image_chat.json")
        let images = ImageSpec(
            patchSize: 4, temporalPatchSize: 2, mergeSize: 2, minPixels: 64, maxPixels: 1024, mean: [0.5, 0.5, 0.5],
            std: [0.5, 0.5, 0.5])
        vision = VisionPart(
            towerFile: "tower", embeddingFile: "embedding", hiddenSize: try golden.integer("hidden_size"),
            imageTokenId: try golden.integer("image_token_id"), startTokenId: 0, endTokenId: 0, images: images)
    }

    func testAChatWithPicturesReplaysCallByCall() throws {
        let engine = try RoteEngine(golden, vision)
        let template = try String(contentsOf: Golden.place(try golden.text("template_file")), encoding: .utf8)
        let voice = Voice(
            tokenizer: try readTokenizer(Golden.place(try golden.text("tokenizer_file"))),
            template: try ChatTemplate(template), options: try XCTUnwrap(golden["options"]?.object))
        let conversation = try Conversation(engine, voice)
        for step in try Golden.cases(golden, "script") { try play(step, on: conversation) }
        XCTAssert(engine.isOver, "fewer calls than in Python")
    }

    private func play(_ step: JSONObject, on conversation: Conversation) throws {
        let settings = try Settings(eosTokenIds: try golden.integers("eos_token_ids"))
        let images = try (step["pictures"]?.array ?? []).map { try seen(try XCTUnwrap($0.string)) }
        let before = conversation.messages
        var pieces: [Piece] = []
        func speak() throws {
            switch try step.text("do") {
            case "say": try conversation.say(try step.text("text"), images: images, settings) { pieces.append($0) }
            case "edit_last":
                try conversation.editLast(try step.text("text"), images: images, settings) { pieces.append($0) }
            case "regenerate": try conversation.regenerate(settings) { pieces.append($0) }
            default: try conversation.reset()
            }
        }
        if let refused = step["refused"]?.string {
            assertError(refused == "image" ? .image : .contextLimit, try step.text("text"), speak)
            XCTAssertEqual(conversation.messages, before, "a refused message was kept")
        } else {
            try speak()
            let wanted = try step["pieces"].map { _ in try step.texts("pieces") } ?? []
            XCTAssertEqual(pieces.count, wanted.count)
            for (found, wanted) in zip(pieces.map(\.text), wanted) { assertSame(found, wanted, "piece") }
        }
    }

    /// A picture of the golden file: its features are its number and the place of each token.
    private func seen(_ name: String) throws -> SeenImage {
        let pictures = try XCTUnwrap(golden["pictures"]?.object)
        let number = try XCTUnwrap(pictures.fields.firstIndex { $0.name == name })
        let sides = try pictures.integers(name)
        let grid = TokenGrid(height: sides[0], width: sides[1])
        return SeenImage(features: (0..<grid.tokens).flatMap { [Float(number), Float($0)] }, grid: grid, digest: name)
    }
}

/// Knows one chat with pictures by heart and refuses every other call.
private final class RoteEngine: SeeingEngine {
    struct Remembered: Snapshot {
        let id: Int
        let position: Int
        let lag: Int
    }

    let contextLength: Int
    let vocabSize: Int
    let prefillChunk: Int
    let name = "a rote"
    let vision: VisionPart
    private(set) var position = 0
    private var lag = 0
    private var calls: ArraySlice<JSONObject>

    init(_ golden: JSONObject, _ vision: VisionPart) throws {
        self.vision = vision
        contextLength = try golden.integer("context_length")
        vocabSize = try golden.integer("vocab_size")
        prefillChunk = try golden.integer("prefill_chunk")
        calls = try Golden.cases(golden, "calls")[...]
    }

    var isOver: Bool { calls.isEmpty }
    var nextPosition: Int { position - lag }

    func see(_ image: PatchedImage) throws -> SeenImage { throw EdgeError(.image, "the pictures are known") }

    func forward(_ tokens: [Int]) throws -> [Float] {
        let call = try next("forward")
        XCTAssertEqual(tokens, try call.integers("tokens"))
        XCTAssertEqual(nextPosition, try call.integer("next_position"))
        position += tokens.count
        return try answer(call)
    }

    func forward(_ prompt: Prompt) throws -> [Float] {
        let call = try next("forward_prompt")
        let rows = [prompt.positions.time, prompt.positions.height, prompt.positions.width]
        XCTAssertEqual(prompt.tokens, try call.integers("tokens"))
        XCTAssertEqual(rows, try call.list("rows").map { try XCTUnwrap($0.array).compactMap(\.integer) })
        let features = try call.list("features").flatMap { try XCTUnwrap($0.array).compactMap(\.double).map(Float.init) }
        XCTAssertEqual(prompt.features, features)
        position += prompt.tokens.count
        lag = position - prompt.positions.next
        return try answer(call)
    }

    func reset() throws {
        _ = try next("reset")
        (position, lag) = (0, 0)
    }

    func snapshot() throws -> any Snapshot {
        Remembered(id: try next("snapshot").integer("id"), position: position, lag: lag)
    }

    func restore(_ snapshot: any Snapshot) throws {
        let remembered = try XCTUnwrap(snapshot as? Remembered)
        XCTAssertEqual(try next("restore").integer("id"), remembered.id)
        (position, lag) = (remembered.position, remembered.lag)
    }

    private func answer(_ call: JSONObject) throws -> [Float] {
        var logits = [Float](repeating: 0, count: vocabSize)
        logits[try call.integer("answer")] = 1
        return logits
    }

    private func next(_ name: String) throws -> JSONObject {
        let call = try XCTUnwrap(calls.popFirst(), "\(name) after the last call")
        XCTAssertEqual(try call.text("call"), name)
        return call
    }
}
