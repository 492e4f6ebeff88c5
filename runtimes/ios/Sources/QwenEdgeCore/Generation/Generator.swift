/// The one generation loop: prefill, choose, stop, stream.
struct Generator {
    private let engine: any Engine
    private let sink: EventSink
    private let cancellation: Cancellation

    init(_ engine: any Engine, cancellation: Cancellation = Cancellation(), sink: @escaping EventSink = { _ in }) {
        self.engine = engine
        self.cancellation = cancellation
        self.sink = sink
    }

    /// Append a prompt chunk by chunk and return the logits after it; `images` are those of its image tokens.
    /// `CancellationError` between chunks.
    func prefill(_ tokens: [Int], _ images: [SeenImage] = []) throws -> [Float] {
        let room = engine.contextLength - engine.position
        guard tokens.count <= room else {
            throw EdgeError(
                .contextLimit,
                "the prompt has \(tokens.count) tokens, \(room) of \(engine.contextLength) are left; "
                    + "shorten it or start a new chat")
        }
        guard !images.isEmpty else { return try chunks(tokens) { try engine.forward(Array(tokens[$0])) } }
        let seeing = try engine.seeing()
        let prompt = try Prompt(tokens, images, for: seeing)
        return try chunks(tokens) { try seeing.forward(prompt.cut($0)) }
    }

    private func chunks(_ tokens: [Int], _ forward: (Range<Int>) throws -> [Float]) throws -> [Float] {
        var logits: [Float] = []
        for start in stride(from: 0, to: tokens.count, by: engine.prefillChunk) {
            if cancellation.isCancelled { throw CancellationError() }
            let chunk = start..<min(start + engine.prefillChunk, tokens.count)
            emit(.prefillStart(position: engine.position, tokens: chunk.count))
            logits = try forward(chunk)
            emit(.prefillEnd(position: engine.position, tokens: chunk.count))
        }
        return logits
    }

    /// Choose tokens after a prefill, feed them and hand over their text: no piece ends inside a character or shows a part
    /// of a stop string. `history` grows with what is fed: a chosen token is fed only when the next one is wanted, so an
    /// end token never is, and the next turn of a chat starts with it.
    func stream(
        _ tokenizer: Tokenizer, after first: [Float], history: inout [Int], settings: Settings, onPiece: (Piece) -> Void
    ) throws -> StopReason {
        var sampler = Sampler(settings.sampling)
        var text = StoppableText(tokenizer, stops: settings.stopStrings)
        var logits = first
        var count = 0
        var reason = StopReason.cancelled
        defer { emit(.stop(reason: reason, tokens: count)) }
        while true {
            let token = try sampler.choose(logits, history: history)
            emit(.token(index: count, token: token))
            count += 1
            let end = end(after: token, count: count, settings)
            var (shown, isReached) = text.push(end == .eos ? nil : token)
            let stop = isReached ? .stopString : end ?? (cancellation.isCancelled ? .cancelled : nil)
            if stop != nil, !isReached { shown += text.rest() }
            onPiece(Piece(token: token, text: shown, stop: stop))
            if let stop {
                reason = stop
                return stop
            }
            history.append(token)
            logits = try engine.forward([token])
        }
    }

    private func emit(_ event: Event) {
        sink(TimedEvent(event))
    }

    private func end(after token: Int, count: Int, _ settings: Settings) -> StopReason? {
        if settings.eosTokenIds.contains(token) { return .eos }
        if let most = settings.maxTokens, count >= most { return .maxTokens }
        return engine.position >= engine.contextLength ? .context : nil
    }
}

/// The text of a generation as far as it is certain, up to a stop string.
private struct StoppableText {
    private var stream: TextStream
    private var stops: StopStrings

    init(_ tokenizer: Tokenizer, stops: [String]) {
        stream = TextStream(tokenizer)
        self.stops = StopStrings(stops)
    }

    /// The text that a token completes, and whether a stop string is reached; an end token has no text.
    mutating func push(_ token: Int?) -> (text: String, isReached: Bool) {
        stops.push(token.map { stream.push($0) } ?? "")
    }

    /// What is still held back when the generation ends.
    mutating func rest() -> String {
        let (text, isReached) = stops.push(stream.flush())
        return isReached ? text : text + stops.flush()
    }
}
