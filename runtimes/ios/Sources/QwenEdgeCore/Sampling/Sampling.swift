/// How tokens are chosen; temperature 0 is greedy.
public struct Sampling: Equatable, Sendable {
    public static let greedy = Sampling(
        uncheckedTemperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: nil)

    public let temperature: Double
    /// Draw from so many of the best tokens; 0: all.
    public let topK: Int
    /// Draw from the best tokens that make up this probability.
    public let topP: Double
    /// Drop tokens that are less likely than this share of the best one.
    public let minP: Double
    /// 1 is none.
    public let repetitionPenalty: Double
    /// The same seed draws the same tokens; nil: others each time.
    public let seed: Int?

    public init(
        temperature: Double = 0, topK: Int = 0, topP: Double = 1, minP: Double = 0, repetitionPenalty: Double = 1,
        seed: Int? = nil
    ) throws {
        try check("temperature", temperature, temperature >= 0 && temperature.isFinite, "0 or more")
        try check("top_k", topK, topK >= 0, "0 (all) or more")
        try check("top_p", topP, topP > 0 && topP <= 1, "above 0 and at most 1")
        try check("min_p", minP, minP >= 0 && minP < 1, "at least 0 and below 1")
        try check(
            "repetition_penalty", repetitionPenalty, repetitionPenalty > 0 && repetitionPenalty.isFinite, "above 0; 1 is none")
        if let seed { try check("seed", seed, seed >= 0, "0 or more") }
        self.init(
            uncheckedTemperature: temperature, topK: topK, topP: topP, minP: minP, repetitionPenalty: repetitionPenalty,
            seed: seed)
    }

    private init(
        uncheckedTemperature temperature: Double, topK: Int, topP: Double, minP: Double, repetitionPenalty: Double,
        seed: Int?
    ) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.minP = minP
        self.repetitionPenalty = repetitionPenalty
        self.seed = seed
    }
}

private func check(_ name: String, _ value: any Sendable, _ isValid: Bool, _ wanted: String) throws {
    if !isValid { throw EdgeError(.sampling, "\(name) is \(value); it must be \(wanted)") }
}
