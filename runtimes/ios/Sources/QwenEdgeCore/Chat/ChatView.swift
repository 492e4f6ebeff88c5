/// What the chat is doing.
public enum Phase: Equatable, Sendable {
    /// No model was chosen, or the last one could not be opened.
    case noModel
    /// A model is being checked and opened.
    case loading
    /// A message may be sent.
    case ready
    /// The memory was given back; the next message opens the model again.
    case asleep
    /// An answer is being written.
    case answering
}

/// Everything a screen shows of a chat; each change is a new value.
public struct ChatView: Equatable, Sendable {
    public internal(set) var phase = Phase.noModel
    public internal(set) var model: String?
    /// What computes, once the model is open.
    public internal(set) var engine: String?
    /// Whether pictures may be sent.
    public internal(set) var canSee = false
    /// How much of the model was checked while it loads, 0 to 1.
    public internal(set) var progress: Double?
    public internal(set) var messages: [Message] = []
    /// The answer as far as it is written.
    public internal(set) var answer: String?
    public internal(set) var figures = Figures()
    /// What went wrong last, in one sentence.
    public internal(set) var notice: String?

    public init() {}
}

/// The speed of an answer, and how full the context is.
public struct Figures: Equatable, Sendable {
    public internal(set) var tokensPerSecond: Double?
    public internal(set) var promptTokensPerSecond: Double?
    public internal(set) var timeToFirstTokenMs: Double?
    public internal(set) var position = 0
    public internal(set) var contextLength = 0

    public init() {}
}
