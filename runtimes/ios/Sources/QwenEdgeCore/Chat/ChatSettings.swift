/// How a chat answers.
public struct ChatSettings: Equatable, Sendable {
    public var system: String?
    public var sampling: Sampling
    public var maxTokens: Int?
    /// Whether the model reasons before it answers; nil: as its template has it.
    public var thinking: Bool?

    public init(
        system: String? = nil, sampling: Sampling = .greedy, maxTokens: Int? = nil, thinking: Bool? = nil
    ) {
        self.system = system
        self.sampling = sampling
        self.maxTokens = maxTokens
        self.thinking = thinking
    }

    /// The switches of the chat template.
    var templateOptions: JSONObject {
        thinking.map { ["enable_thinking": .bool($0)] } ?? [:]
    }

    func forModel(_ manifest: Manifest) throws -> Settings {
        try Settings(eosTokenIds: manifest.eosTokenIds, sampling: sampling, maxTokens: maxTokens)
    }
}
