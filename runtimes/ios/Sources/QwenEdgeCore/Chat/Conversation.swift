/// What a conversation speaks through: the tokenizer, the template and its switches.
public struct Voice {
    public let tokenizer: Tokenizer
    public let template: ChatTemplate
    public let options: JSONObject

    public init(tokenizer: Tokenizer, template: ChatTemplate, options: JSONObject = JSONObject()) {
        self.tokenizer = tokenizer
        self.template = template
        self.options = options
    }
}

/// A conversation on top of an engine, which never computes the same token twice if it can help it.
///
/// The chat template renders the whole conversation each turn. As far as that text equals what the model has already
/// read and written, the tokens in the sequence stay, exactly as they were generated; only the rest is tokenized and
/// prefilled. Gated DeltaNet's state cannot be cut back, so regenerating an answer or editing a message returns to a
/// checkpoint: a snapshot taken before the turn, after its prompt, or after the system message.
public final class Conversation {
    /// A shorter prefix is not worth a snapshot.
    private static let minSystemTokens = 8
    /// Two user messages that share no character: what their renderings share is the system part.
    private static let probes = ["a", "b"]

    /// The messages so far, the system message first.
    public private(set) var messages: [Message] = []

    private let engine: any Engine
    private let voice: Voice
    private let system: String?
    private let sink: EventSink
    private let sequence: TokenSequence
    private var before: Checkpoint?
    private var prompted: Checkpoint?
    private var systemPrefix: Checkpoint?

    public init(
        _ engine: any Engine, _ voice: Voice, system: String? = nil, sink: @escaping EventSink = { _ in }
    ) throws {
        self.engine = engine
        self.voice = voice
        self.system = system
        self.sink = sink
        sequence = TokenSequence(engine)
        try reset()
    }

    /// How full the context is, in tokens.
    public var position: Int { engine.position }

    /// Start over; the system message stays.
    public func reset() throws {
        try continueFrom(system.map { [Message(.system, $0)] } ?? [])
    }

    /// Take up a conversation that was held elsewhere; it is read when the next message is sent.
    public func continueFrom(_ messages: [Message]) throws {
        self.messages = messages
        dropCheckpoints()
        try sequence.reset()
    }

    /// Give the memory of snapshots back; until the next turn makes new ones, regenerating reads the chat anew.
    public func dropCheckpoints() {
        before = nil
        prompted = nil
        systemPrefix = nil
    }

    /// Add a user message and stream the answer.
    @discardableResult
    public func say(
        _ text: String, images: [SeenImage] = [], _ settings: Settings, _ cancellation: Cancellation = Cancellation(),
        onPiece: (Piece) -> Void
    ) throws -> StopReason {
        let message = Message(.user, text, images: images)
        try checkFits(messages + [message])
        messages.append(message)
        return try answer(settings, cancellation, onPiece)
    }

    /// Drop the last answer and stream another one to the same message.
    @discardableResult
    public func regenerate(
        _ settings: Settings, _ cancellation: Cancellation = Cancellation(), onPiece: (Piece) -> Void
    ) throws -> StopReason {
        messages.removeSubrange((try lastUser("regenerate") + 1)...)
        return try answer(settings, cancellation, onPiece)
    }

    /// Replace the last user message and stream an answer to the new one.
    @discardableResult
    public func editLast(
        _ text: String, images: [SeenImage] = [], _ settings: Settings, _ cancellation: Cancellation = Cancellation(),
        onPiece: (Piece) -> Void
    ) throws -> StopReason {
        let edited = messages[..<(try lastUser("edit"))] + [Message(.user, text, images: images)]
        try checkFits(Array(edited))
        messages = Array(edited)
        return try answer(settings, cancellation, onPiece)
    }

    /// Bring the sequence up to the rendered conversation, then stream and record the answer, as far as it came.
    private func answer(
        _ settings: Settings, _ cancellation: Cancellation, _ onPiece: (Piece) -> Void
    ) throws -> StopReason {
        var shown = ""
        defer { messages.append(Message(.assistant, shown)) }
        let generator = Generator(engine, cancellation: cancellation, sink: sink)
        do {
            let logits = try prepare(try rendered(messages), generator)
            return try sequence.write(voice.tokenizer) { history in
                try generator.stream(voice.tokenizer, after: logits, history: &history, settings: settings) { piece in
                    shown += piece.text
                    onPiece(piece)
                }
            }
        } catch is CancellationError {
            sink(TimedEvent(.stop(reason: .cancelled, tokens: 0)))
            return .cancelled
        }
    }

    /// Put the sequence into the state after `text`, from the best place that is already computed.
    private func prepare(_ whole: Rendered, _ generator: Generator) throws -> [Float] {
        let submittedNs = monotonicNanoseconds()
        if let prompted, let logits = prompted.logits, prompted.rendered.isSame(as: whole) {
            try sequence.goBack(to: prompted)
            sink(TimedEvent(.submit(promptTokens: 0), atNanoseconds: submittedNs))
            return logits
        }
        if !sequence.stands(before: whole) { try sequence.goBack(to: bestCheckpoint(for: whole)) }
        before = try sequence.mark()
        let prefix = try systemPart(of: whole.text)
        let known = prefix?.text ?? sequence.rendered.text
        let rest = whole.text.utf8.dropFirst(known.utf8.count)
        let suffix = voice.tokenizer.encode(String(decoding: rest, as: UTF8.self))
        let count = (prefix?.tokens.count ?? 0) + suffix.count
        sink(TimedEvent(.submit(promptTokens: count), atNanoseconds: submittedNs))
        if let prefix {
            _ = try sequence.read(prefix.tokens, upTo: Rendered(text: prefix.text), generator)
            systemPrefix = try sequence.mark()
        }
        let images = messages.flatMap(\.images).dropFirst(sequence.rendered.images.count)
        let logits = try sequence.read(suffix, Array(images), upTo: whole, generator)
        prompted = try sequence.mark(logits)
        return logits
    }

    /// On a first turn, the system part of the text: a stop there saves later edits from reading it again.
    private func systemPart(of text: String) throws -> (text: String, tokens: [Int])? {
        guard sequence.isEmpty, let system else { return nil }
        let prefix = try textBeforeFirstUser(system)
        let tokens = voice.tokenizer.encode(prefix)
        let isWorthIt = tokens.count >= Self.minSystemTokens && text.begins(with: prefix) && !text.isSame(as: prefix)
        return isWorthIt ? (prefix, tokens) : nil
    }

    /// The text before the first user message, up to the special token that opens it: tokens cannot merge across.
    private func textBeforeFirstUser(_ system: String) throws -> String {
        let texts = try Self.probes.map { try render([Message(.system, system), Message(.user, $0)]).unicodeScalars }
        let same = zip(texts[0], texts[1]).prefix { $0 == $1 }.map(\.0)
        let tokens = voice.tokenizer.encode(String(String.UnicodeScalarView(same)))
        let opening = tokens.lastIndex { voice.tokenizer.decode([$0]).isEmpty } ?? 0
        return voice.tokenizer.decode(Array(tokens[..<opening]), special: true)
    }

    /// The longest place that the text begins with.
    private func bestCheckpoint(for whole: Rendered) -> Checkpoint {
        [.start, systemPrefix, before, prompted].compactMap { $0 }
            .filter { whole.begins(with: $0.rendered) && !whole.text.isSame(as: $0.rendered.text) }
            .max { $0.tokens.count < $1.tokens.count } ?? .start
    }

    /// Refuse a message before anything changes: one that the template refuses, or that the context cannot hold.
    private func checkFits(_ messages: [Message]) throws {
        let text = try rendered(messages).text
        guard !text.isEmpty else {
            throw EdgeError(.chatTemplate, "the chat template rendered nothing for this conversation")
        }
        let count = voice.tokenizer.encode(text).count
        guard count < engine.contextLength else {
            throw EdgeError(
                .contextLimit,
                "the conversation has \(count) tokens, the context holds \(engine.contextLength); "
                    + "shorten the message or start a new chat")
        }
    }

    private func rendered(_ messages: [Message]) throws -> Rendered {
        let images = messages.flatMap(\.images)
        return Rendered(text: try withRoom(for: images, try render(messages)), images: images.map(\.digest))
    }

    /// The text with each image's placeholder repeated, once for each of its tokens.
    private func withRoom(for images: [SeenImage], _ text: String) throws -> String {
        if images.isEmpty { return text }
        let placeholder = voice.tokenizer.decode([try engine.seeing().vision.imageTokenId], special: true)
        let parts = text.parts(between: placeholder)
        guard parts.count == images.count + 1 else {
            throw EdgeError(
                .image,
                "the text has \(parts.count - 1) places for \(images.count) images; do not write \(placeholder)")
        }
        let pads = images.map { String(repeating: placeholder, count: $0.grid.tokens) } + [""]
        return zip(parts, pads).map { $0 + $1 }.joined()
    }

    private func render(_ messages: [Message]) throws -> String {
        try voice.template.render(messages.map(\.json), options: voice.options)
    }

    private func lastUser(_ what: String) throws -> Int {
        guard let place = messages.lastIndex(where: { $0.role == .user }) else {
            throw EdgeError(.conversation, "nothing to \(what): no message was sent yet")
        }
        return place
    }
}
