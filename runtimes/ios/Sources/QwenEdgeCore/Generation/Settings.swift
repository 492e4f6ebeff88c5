/// How tokens are chosen, and when a generation ends besides a full context.
public struct Settings: Equatable, Sendable {
    public let eosTokenIds: [Int]
    public let sampling: Sampling
    public let maxTokens: Int?
    public let stopStrings: [String]

    public init(
        eosTokenIds: [Int], sampling: Sampling = .greedy, maxTokens: Int? = nil, stopStrings: [String] = []
    ) throws {
        if let maxTokens, maxTokens < 1 {
            throw EdgeError(.sampling, "max_tokens is \(maxTokens); it must be 1 or more")
        }
        self.eosTokenIds = eosTokenIds
        self.sampling = sampling
        self.maxTokens = maxTokens
        self.stopStrings = stopStrings
    }
}

/// Why a generation ended.
public enum StopReason: String, Sendable {
    case eos
    case maxTokens = "max_tokens"
    case stopString = "stop_string"
    case context
    case cancelled
}

/// One step of a stream: the token chosen and the text that is certain since the last piece. `stop` is set on the last.
public struct Piece: Equatable, Sendable {
    public let token: Int
    public let text: String
    public let stop: StopReason?
}
