/// One chat with one model. `show` hears of every change.
///
/// The chat writes itself down after each answer, so it survives the death of the process. Nothing that goes wrong ends it:
/// that becomes a notice, and another message may be sent. One thing after the other: `ChatSession` sees to that.
public final class Chat {
    private let home: ChatHome
    private let settings: ChatSettings
    private let show: (ChatView) -> Void
    private let cancellation: Cancellation
    private var chosen: Installed?
    private var open: (model: LoadedModel, conversation: Conversation)?
    private let live = LiveFigures()

    /// What the screen shows now.
    public private(set) var view = ChatView()

    /// Whoever sets `cancellation` ends the answer in progress; what is written stays.
    public init(
        _ home: ChatHome, _ settings: ChatSettings, cancellation: Cancellation, show: @escaping (ChatView) -> Void
    ) {
        self.home = home
        self.settings = settings
        self.cancellation = cancellation
        self.show = show
    }

    /// Take up the chat of an earlier process, or say what killed it.
    public func resume() {
        let kept = home.transcript.read()
        let died = home.crashGuard.lastWords().map { "the app ended while it was \($0)" }
        chosen = home.store.list().first { $0.name == kept?.model }
        update {
            $0.phase = chosen?.artifact == nil ? .noModel : .asleep
            $0.model = chosen?.name
            $0.messages = kept?.messages ?? []
            $0.notice = died ?? chosen?.problem
        }
    }

    /// Choose a model and begin a new chat with it.
    public func choose(_ installed: Installed) {
        open = nil
        chosen = installed
        update {
            $0 = ChatView()
            $0.model = installed.name
        }
        recovering { _ = try opened() }
    }

    /// Add a message, with pictures where the model sees, and stream the answer.
    public func say(_ text: String, pictures: [any Picture] = []) {
        answer { try $0.say(text, images: try seen(pictures), $1, cancellation, onPiece: $2) }
    }

    /// Drop the last answer and stream another one.
    public func regenerate() {
        answer { try $0.regenerate($1, cancellation, onPiece: $2) }
    }

    /// Replace the last message and stream an answer to the new one.
    public func editLast(_ text: String) {
        answer { try $0.editLast(text, $1, cancellation, onPiece: $2) }
    }

    /// Forget what was said.
    public func newChat() {
        recovering {
            try open?.conversation.reset()
            update {
                $0.messages = open?.conversation.messages ?? []
                $0.figures = Figures()
                $0.notice = nil
            }
        }
    }

    /// Give the model's memory back, as iOS asks before it kills; the next message opens it again and reads the chat anew.
    public func sleep() {
        guard open != nil else { return }
        open = nil
        update {
            $0.phase = .asleep
            $0.figures = Figures()
        }
    }

    private func answer(_ speak: (Conversation, Settings, (Piece) -> Void) throws -> StopReason) {
        cancellation.clear()
        recovering {
            let (model, conversation) = try opened()
            let settings = try settings.forModel(model.artifact)
            var written = ""
            update {
                $0.phase = .answering
                $0.answer = ""
                $0.notice = nil
            }
            let reason = try home.crashGuard.watch("answering with \(model.artifact.name)") {
                try speak(conversation, settings) { piece in
                    written += piece.text
                    update {
                        $0.messages = conversation.messages
                        $0.answer = written
                        $0.figures = figures(of: model.engine)
                    }
                }
            }
            if reason == .context { update { $0.notice = "the context is full; start a new chat" } }
        }
    }

    /// What the model's tower makes of pictures.
    private func seen(_ pictures: [any Picture]) throws -> [SeenImage] {
        guard !pictures.isEmpty, let engine = try open?.model.engine.seeing() else { return [] }
        return try pictures.map { try engine.see(PatchedImage(try $0.pixels(), engine.vision.images)) }
    }

    /// The open model, checked and opened first where it is not, with what was said so far.
    private func opened() throws -> (model: LoadedModel, conversation: Conversation) {
        if let open { return open }
        guard let chosen else { throw EdgeError(.conversation, "no model was chosen; choose one") }
        guard let artifact = chosen.artifact else {
            throw EdgeError(.artifact, chosen.problem ?? "\(chosen.name) cannot be used")
        }
        update {
            $0.phase = .loading
            $0.notice = nil
        }
        try home.store.verify(artifact) { share in update { $0.progress = share } }
        update { $0.progress = nil }
        let model = try home.crashGuard.watch("opening \(chosen.name)") {
            try loadModel(artifact, home.engines, options: settings.templateOptions)
        }
        let conversation = try Conversation(model.engine, model.voice, system: settings.system) { [live] in live.note($0) }
        if !view.messages.isEmpty { try conversation.continueFrom(view.messages) }
        open = (model, conversation)
        update {
            $0.phase = .ready
            $0.engine = model.engine.name
            $0.canSee = model.engine is any SeeingEngine
            $0.messages = conversation.messages
        }
        return (model, conversation)
    }

    private func figures(of engine: any Engine) -> Figures {
        var figures = Figures()
        figures.tokensPerSecond = live.tokensPerSecond
        figures.promptTokensPerSecond = live.promptTokensPerSecond
        figures.timeToFirstTokenMs = live.timeToFirstTokenMs
        figures.position = engine.position
        figures.contextLength = engine.contextLength
        return figures
    }

    /// Whatever goes wrong becomes a notice, and the chat is as usable as it can be.
    private func recovering(_ work: () throws -> Void) {
        do {
            try work()
        } catch {
            update {
                $0.messages = open?.conversation.messages ?? $0.messages
                $0.notice = error.localizedDescription
            }
            if (error as? EdgeError)?.kind == .memory { open = nil }
        }
        settle()
    }

    /// Leave loading and answering behind, whatever happened.
    private func settle() {
        update {
            $0.phase = open != nil ? .ready : chosen?.artifact != nil ? .asleep : .noModel
            $0.progress = nil
            $0.answer = nil
            $0.messages = open?.conversation.messages ?? $0.messages
        }
        guard let chosen else { return }
        do {
            try home.transcript.save(Transcript(model: chosen.name, messages: view.messages))
        } catch {
            update { $0.notice = "the chat could not be kept (\(error.localizedDescription)); make room" }
        }
    }

    private func update(_ change: (inout ChatView) -> Void) {
        change(&view)
        show(view)
    }
}
