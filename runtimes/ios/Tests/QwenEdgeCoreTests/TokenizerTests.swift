import Foundation
import QwenEdgeCore
import XCTest

final class TokenizerTests: XCTestCase {
    func testTextsAndTokensOfTheTinyModelAreThoseOfPython() throws {
        let golden = try Golden.read("tokenizers.json")
        try check(golden, try readTokenizer(Golden.place(try golden.text("tokenizer_file"))))
    }

    func testTextsAndTokensOfQwenAreThoseOfPython() throws {
        guard let place = ProcessInfo.processInfo.environment["QWEN_EDGE_TOKENIZER"] else {
            throw XCTSkip("QWEN_EDGE_TOKENIZER names no tokenizer.json; python -m tools.golden.qwen_tokenizer writes it")
        }
        try check(try Golden.read("qwen_tokenizer.json"), try readTokenizer(URL(filePath: place)))
    }

    func testWhatIsNoByteLevelTokenizerIsRefused() throws {
        let place = Golden.place(try Golden.read("tokenizers.json").text("tokenizer_file"))
        let text = try String(contentsOf: place, encoding: .utf8)
        let changes = [
            ("\"NFC\"", "\"NFKC\"", "normalizer"), ("\"type\": \"BPE\"", "\"type\": \"Unigram\"", "BPE"),
            ("\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback"),
            ("\"behavior\": \"Isolated\"", "\"behavior\": \"Removed\"", "split"), ("{", "[", "JSON"),
        ]
        for (old, new, named) in changes {
            let changed = text.replacingOccurrences(of: old, with: new, range: text.range(of: old))
            XCTAssertNotEqual(changed, text, old)
            let copy = FileManager.default.temporaryDirectory.appending(path: "tokenizer-\(UUID().uuidString).json")
            defer { try? FileManager.default.removeItem(at: copy) }
            try changed.write(to: copy, atomically: true, encoding: .utf8)
            let message = assertError(.tokenizer, old) { _ = try readTokenizer(copy) }
            XCTAssert(message.contains(named), message)
        }
    }

    private func check(_ golden: JSONObject, _ tokenizer: Tokenizer) throws {
        for entry in try Golden.cases(golden) {
            let tokens = try entry.integers("tokens")
            let name = entry["text"]?.string ?? "\(tokens)"
            if let text = entry["text"]?.string { XCTAssertEqual(tokenizer.encode(text), tokens, text.debugDescription) }
            assertSame(tokenizer.decode(tokens), try entry.text("decoded"), name)
            assertSame(tokenizer.decode(tokens, special: true), try entry.text("decoded_special"), name)
            var stream = TextStream(tokenizer)
            let pieces = tokens.map { stream.push($0) } + [stream.flush()]
            let wanted = try entry.texts("pieces")
            XCTAssertEqual(pieces.count, wanted.count, name)
            for (found, wanted) in zip(pieces, wanted) { assertSame(found, wanted, name) }
        }
    }
}

final class StopStringsTests: XCTestCase {
    func testNoPartOfAStopStringIsShown() {
        var stops = StopStrings(["\n\nUser:", "END"])
        var shown = ""
        for piece in ["Hello\n", "\nUs", "ual text E", "N", "D and more"] {
            let step = stops.push(piece)
            shown += step.text
            if step.isReached { break }
        }
        XCTAssertEqual(shown, "Hello\n\nUsual text ")
    }

    func testWhatTurnsOutToBeNoStopStringIsShownAtTheEnd() {
        var stops = StopStrings(["END"])
        XCTAssertEqual(stops.push("the EN").text, "the ")
        XCTAssertEqual(stops.flush(), "EN")
    }

    func testDifferentSpellingsOfACharacterAreDifferent() {
        var stops = StopStrings(["\u{E9}"])
        XCTAssertFalse(stops.push("cafe\u{301}").isReached)
    }
}
