extension Sampling {
    private static let maxBytes = 1024 * 1024

    /// How the model's makers would draw: `generation_config.json` of the artifact; greedy where there is none.
    public init(of artifact: Artifact) throws {
        let files = artifact.manifest.files.map(\.path)
        guard let path = files.first(where: { $0.split(separator: "/").last == "generation_config.json" }),
            let config = try? JSONReader.document(try artifact.read(path, atMost: Self.maxBytes)).object,
            config["do_sample"] == true
        else {
            self = .greedy
            return
        }
        try self.init(
            temperature: config["temperature"]?.double ?? 1, topK: config["top_k"]?.integer ?? 50,
            topP: config["top_p"]?.double ?? 1, minP: config["min_p"]?.double ?? 0,
            repetitionPenalty: config["repetition_penalty"]?.double ?? 1)
    }
}
