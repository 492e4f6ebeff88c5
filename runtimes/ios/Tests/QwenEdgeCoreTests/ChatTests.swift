import Foundation
import QwenEdgeCore
import XCTest

/// What can go wrong in a chat: each time a notice, and a chat that goes on.
final class ChatTests: XCTestCase {
    private static let words = "Once upon a time there was a cat 猫 👩‍👩‍👧‍👦."

    private var scratch: Scratch!
    private var engine: ScriptedEngine!
    private var views: [ChatView] = []
    private let cancellation = Cancellation()

    override func setUpWithError() throws {
        scratch = try Scratch()
        views = []
        let tokenizer = try readTokenizer(Golden.place("export/models/tiny/tokenizer.json"))
        engine = ScriptedEngine(tokenizer.encode(Self.words))
    }

    func testAChatAnswersAndNoPieceSplitsACharacter() throws {
        let chat = try openChat()
        chat.say("Tell me a story")
        XCTAssertEqual(chat.view.messages.map(\.role), [.user, .assistant])
        assertSame(chat.view.messages[1].content, Self.words, "the answer")
        let answers = views.compactMap(\.answer)
        XCTAssertFalse(answers.contains { $0.contains("\u{FFFD}") })
        for answer in answers { XCTAssert(Self.words.utf8.starts(with: answer.utf8), answer) }
        XCTAssertEqual(chat.view.phase, .ready)
        XCTAssertNil(chat.view.notice)
    }

    func testRegeneratingReadsNothingAgain() throws {
        let chat = try openChat()
        chat.say("Tell me a story")
        let calls = engine.calls
        let steps = calls - 1
        chat.regenerate()
        XCTAssertEqual(engine.calls - calls, steps, "the prompt was read again")
        XCTAssertEqual(chat.view.messages.count, 2)
    }

    func testStoppingInTheMiddleOfAPromptLeavesAUsableChat() throws {
        let chat = try openChat()
        let long = String(repeating: "word after word ", count: 12)
        engine.before = { [cancellation] tokens in if tokens.count > 1 { cancellation.cancel() } }
        chat.say(long)
        XCTAssertEqual(engine.calls, 1, "read on after the stop")
        XCTAssertEqual(chat.view.messages.last?.content, "")
        engine.before = { _ in }
        chat.regenerate()
        assertSame(try XCTUnwrap(chat.view.messages.last).content, Self.words, "the answer after a stop")
    }

    func testStoppingAnAnswerKeepsWhatIsWritten() throws {
        let chat = try openChat()
        engine.before = { [cancellation, engine] _ in if engine!.calls == 5 { cancellation.cancel() } }
        chat.say("Tell me a story")
        let answer = try XCTUnwrap(chat.view.messages.last).content
        XCTAssert(Self.words.hasPrefix(answer) && !answer.isEmpty && answer.count < Self.words.count, answer)
    }

    func testAnEngineThatFailsIsANoticeAndTheNextMessageWorks() throws {
        let chat = try openChat()
        engine.before = { [engine] _ in
            if engine!.calls == 4 { throw EdgeError(.engine, "the Neural Engine said no") }
        }
        chat.say("Tell me a story")
        XCTAssertEqual(chat.view.notice, "the Neural Engine said no")
        XCTAssertEqual(chat.view.phase, .ready)
        engine.before = { _ in }
        chat.regenerate()
        assertSame(try XCTUnwrap(chat.view.messages.last).content, Self.words, "the answer after a failure")
        XCTAssertNil(chat.view.notice)
    }

    func testOutOfMemoryGivesTheModelBackAndOpensItAgain() throws {
        let chat = try openChat()
        engine.before = { _ in throw EdgeError(.memory, "the device ran out of memory") }
        chat.say("Tell me a story")
        XCTAssertEqual(chat.view.phase, .asleep)
        XCTAssertEqual(chat.view.notice, "the device ran out of memory")
        engine.before = { _ in }
        chat.regenerate()
        XCTAssertEqual(chat.view.phase, .ready)
        assertSame(try XCTUnwrap(chat.view.messages.last).content, Self.words, "the answer")
    }

    func testAModelThatCannotBeOpenedIsANotice() throws {
        let chat = try openChat { _ in throw EdgeError(.memory, "too large for this device") }
        XCTAssertEqual(chat.view.phase, .asleep)
        XCTAssertEqual(chat.view.notice, "too large for this device")
    }

    func testAMemoryWarningSendsTheModelToSleepAndTheChatGoesOn() throws {
        let chat = try openChat()
        chat.say("Tell me a story")
        chat.sleep()
        XCTAssertEqual(chat.view.phase, .asleep)
        chat.say("And then?")
        XCTAssertEqual(chat.view.messages.count, 4)
        XCTAssertNil(chat.view.notice)
    }

    func testAFullContextIsSaid() throws {
        engine = ScriptedEngine(Array(repeating: 500, count: 300), contextLength: 64)
        let chat = try openChat()
        chat.say("Tell me a story")
        XCTAssertEqual(chat.view.notice, "the context is full; start a new chat")
        chat.say("More")
        XCTAssert(try XCTUnwrap(chat.view.notice).contains("the context holds 64"))
        XCTAssertEqual(chat.view.messages.count, 2, "a message that does not fit was kept")
        chat.newChat()
        XCTAssertNil(chat.view.notice)
        XCTAssertEqual(chat.view.messages, [])
    }

    func testAnotherProcessTakesTheChatUp() throws {
        let first = try openChat()
        first.say("Tell me a story")
        let second = try chat(with: home())
        second.resume()
        XCTAssertEqual(second.view.messages, first.view.messages)
        XCTAssertEqual(second.view.phase, .asleep)
        second.say("And then?")
        XCTAssertEqual(second.view.messages.count, 4)
    }

    func testACrashOfTheEngineIsToldAtTheNextStart() throws {
        let chat = try openChat()
        let note = scratch.folder.appending(path: "crash")
        var left: String?
        engine.before = { [engine] _ in
            if engine!.calls == 3 { left = try String(contentsOf: note, encoding: .utf8) }
        }
        chat.say("Tell me a story")
        XCTAssertFalse(FileManager.default.fileExists(atPath: note.path))
        try Data(try XCTUnwrap(left).utf8).write(to: note)  // what a killed process leaves
        let next = try self.chat(with: home())
        next.resume()
        XCTAssertEqual(next.view.notice, "the app ended while it was answering with tiny")
        next.resume()
        XCTAssertNil(next.view.notice)
    }

    func testARuntimeThatIsMissingOrTooOldIsSaid() throws {
        for (factory, said) in [("other", "this app has other"), ("fake", "update the app")] {
            let factories = Engines([FakeFactory(runtime: factory, version: "0.9") { _ in ScriptedEngine([]) }])
            let chat = try self.chat(with: try home(factories))
            chat.choose(try tiny())
            XCTAssert(try XCTUnwrap(chat.view.notice).contains(said), chat.view.notice ?? "")
        }
    }

    func testATokenizerOfAnotherModelIsRefused() throws {
        try TinyArtifact.write(to: scratch.folder.appending(path: "Documents/small")) { $0["vocab_size"] = 2020 }
        let home = try home()
        let chat = try self.chat(with: home)
        chat.choose(try XCTUnwrap(home.store.list().first))
        XCTAssert(try XCTUnwrap(chat.view.notice).contains("belongs to another model"))
    }

    func testACorruptModelIsANoticeAndAnotherCanBeChosen() throws {
        let place = try TinyArtifact.write(to: scratch.folder.appending(path: "Documents/corrupt"))
        try Data(repeating: 8, count: 3000).write(to: place.appending(path: "model.bin"))
        let home = try home(), chat = try chat(with: home)
        chat.choose(try XCTUnwrap(home.store.list().first))
        XCTAssert(try XCTUnwrap(chat.view.notice).contains("model.bin"), chat.view.notice ?? "")
        XCTAssertEqual(chat.view.phase, .asleep)
        try assertUsable(chat)
    }

    func testAModelOfANewerVersionIsANoticeAndAnotherCanBeChosen() throws {
        try TinyArtifact.write(to: scratch.folder.appending(path: "Documents/newer")) { $0["schema_version"] = 7 }
        let home = try home(), chat = try chat(with: home)
        chat.choose(try XCTUnwrap(home.store.list().first))
        XCTAssert(try XCTUnwrap(chat.view.notice).contains("newer version"), chat.view.notice ?? "")
        XCTAssertEqual(chat.view.phase, .noModel)
        try assertUsable(chat)
    }

    func testATemplateThatDoesNotCompileIsANotice() throws {
        let place = try TinyArtifact.write(to: scratch.folder.appending(path: "Documents/odd"))
        let broken = Data("{% if %}".utf8)
        var manifest = try XCTUnwrap(try JSONReader.document(Array(Data(contentsOf: place.appending(path: Manifest.fileName)))).object)
        var hash = Hash()
        hash.update(broken)
        manifest["files"] = .array(
            try manifest.list("files").map { entry in
                guard var file = entry.object, file["path"] == "chat_template.jinja" else { return entry }
                file["bytes"] = .integer(broken.count)
                file["sha256"] = .string(hash.hex)
                return .object(file)
            })
        try broken.write(to: place.appending(path: "chat_template.jinja"))
        try Data(JSONWriter().write(.object(manifest)).utf8).write(to: place.appending(path: Manifest.fileName))
        let home = try home(), chat = try chat(with: home)
        chat.choose(try XCTUnwrap(home.store.list().first))
        XCTAssertNotNil(chat.view.notice)
        try assertUsable(chat)
    }

    func testAMessageLongerThanTheContextChangesNothing() throws {
        let chat = try openChat()
        chat.say("Tell me a story")
        chat.say(String(repeating: "word ", count: 400))
        XCTAssert(try XCTUnwrap(chat.view.notice).contains("the context holds 256"), chat.view.notice ?? "")
        XCTAssertEqual(chat.view.messages.count, 2)
        chat.say("And then?")
        XCTAssertEqual(chat.view.messages.count, 4)
    }

    func testRegeneratingBeforeTheFirstMessageIsANotice() throws {
        let chat = try openChat()
        chat.regenerate()
        XCTAssert(try XCTUnwrap(chat.view.notice).contains("no message was sent yet"))
        XCTAssertEqual(chat.view.phase, .ready)
    }

    func testAPictureForAModelThatCannotSeeIsANotice() throws {
        let chat = try openChat()
        chat.say("What is this?", pictures: [GreyPicture()])
        XCTAssert(try XCTUnwrap(chat.view.notice).contains("cannot see"), chat.view.notice ?? "")
        XCTAssertEqual(chat.view.messages, [])
        XCTAssertFalse(chat.view.canSee)
        chat.say("Tell me a story")
        XCTAssertEqual(chat.view.messages.count, 2)
    }

    func testADamagedTranscriptIsNoReasonNotToStart() throws {
        for text in ["{", "[]", "{\"model\": \"tiny\", \"messages\": 5}"] {
            try Data(text.utf8).write(to: scratch.folder.appending(path: "chat.json"))
            let chat = try chat(with: try home())
            chat.resume()
            XCTAssertEqual(chat.view.messages, [])
            XCTAssertEqual(chat.view.phase, .noModel)
        }
        try assertUsable(try chat(with: try home()))
    }

    func testAModelThatWasDeletedMeanwhileIsMissedNotNeeded() throws {
        let first = try openChat()
        first.say("Tell me a story")
        try FileManager.default.removeItem(at: scratch.folder.appending(path: "Documents/tiny"))
        let chat = try chat(with: try home())
        chat.resume()
        XCTAssertEqual(chat.view.phase, .noModel)
        chat.say("Hello?")
        XCTAssert(try XCTUnwrap(chat.view.notice).contains("choose one"), chat.view.notice ?? "")
        try assertUsable(chat)
    }

    /// The good model can be chosen, and answers.
    private func assertUsable(_ chat: Chat) throws {
        chat.choose(try tiny())
        chat.say("Tell me a story")
        XCTAssertNil(chat.view.notice)
        assertSame(try XCTUnwrap(chat.view.messages.last).content, Self.words, "the answer")
    }

    // MARK: What the chats are made of

    private func openChat(_ make: (@Sendable (Artifact) throws -> any Engine)? = nil) throws -> Chat {
        let chat = try chat(with: try home(make.map { Engines([FakeFactory(make: $0)]) }))
        chat.choose(try tiny())
        return chat
    }

    private func chat(with home: ChatHome) throws -> Chat {
        Chat(home, ChatSettings(thinking: false), cancellation: cancellation) { self.views.append($0) }
    }

    private func tiny() throws -> Installed {
        let place = scratch.folder.appending(path: "Documents/tiny")
        if !FileManager.default.fileExists(atPath: place.path) { try TinyArtifact.write(to: place) }
        return try XCTUnwrap(try home().store.list().first { $0.name == "tiny" })
    }

    private func home(_ engines: Engines? = nil) throws -> ChatHome {
        let held = Held(engine: engine)
        let folder = scratch.folder
        return ChatHome(
            store: BundleStore(
                imported: folder.appending(path: "Models"), shared: [folder.appending(path: "Documents")],
                notes: folder.appending(path: "notes")),
            engines: engines ?? Engines([FakeFactory { _ in held.engine }]),
            crashGuard: CrashGuard(note: folder.appending(path: "crash")),
            transcript: TranscriptFile(folder.appending(path: "chat.json")))
    }
}

private struct GreyPicture: Picture {
    func pixels() throws -> Pixels {
        try Pixels(size: PixelSize(height: 8, width: 8), rgb: [UInt8](repeating: 128, count: 192))
    }
}

/// An engine that only one chat at a time uses.
private struct Held: @unchecked Sendable {
    let engine: ScriptedEngine
}

final class ChatSessionTests: XCTestCase {
    func testASessionWorksOffTheMainThreadAndStopsFromAnywhere() async throws {
        let scratch = try Scratch()
        try TinyArtifact.write(to: scratch.folder.appending(path: "tiny"))
        let views = Views()
        let store = BundleStore(imported: scratch.folder, shared: [], notes: scratch.folder.appending(path: "notes"))
        let home = ChatHome(
            store: store,
            engines: Engines([FakeFactory { _ in ScriptedEngine(Array(repeating: 500, count: 200)) }]),
            crashGuard: CrashGuard(note: scratch.folder.appending(path: "crash")),
            transcript: TranscriptFile(scratch.folder.appending(path: "chat.json")))
        let session = ChatSession(home, ChatSettings(maxTokens: 100)) { view in views.add(view) }
        views.onAnswer = { length in if length > 10 { session.stop() } }
        await session.choose(try XCTUnwrap(store.list().first))
        await session.say("Hello")
        let last = try XCTUnwrap(views.last)
        XCTAssertEqual(last.phase, .ready)
        XCTAssertGreaterThan(last.messages[1].content.count, 10)
        XCTAssertLessThan(last.messages[1].content.count, 100)
    }
}

/// What a screen would have shown.
private final class Views: @unchecked Sendable {
    private let lock = NSLock()
    private var views: [ChatView] = []
    var onAnswer: @Sendable (Int) -> Void = { _ in }

    var last: ChatView? { lock.withLock { views.last } }

    func add(_ view: ChatView) {
        lock.withLock { views.append(view) }
        onAnswer(view.answer?.count ?? 0)
    }
}
