/// How a chat answers.
public struct ChatSettings: Equatable, Sendable {
    public var system: String?
    /// How tokens are drawn; nil: as the model's makers say.
    public var sampling: Sampling?
    public var maxTokens: Int?
    /// Whether the model reasons before it answers; nil: as its template has it.
    public var thinking: Bool?

    public init(
        system: String? = nil, sampling: Sampling? = nil, maxTokens: Int? = nil, thinking: Bool? = nil
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

    func forModel(_ artifact: Artifact) throws -> Settings {
        let sampling = try sampling ?? Sampling(of: artifact)
        return try Settings(eosTokenIds: artifact.manifest.eosTokenIds, sampling: sampling, maxTokens: maxTokens)
    }
}
