/// An artifact that is open: its engine, and what a conversation with it takes.
public struct LoadedModel {
    public let artifact: Artifact
    public let engine: any Engine
    public let voice: Voice
}

/// Open an artifact for a chat; small files first, so that a wrong one is found before the weights are read.
public func loadModel(_ artifact: Artifact, _ engines: Engines, options: JSONObject) throws -> LoadedModel {
    let factory = try engines.factory(for: artifact)
    let tokenizer = try readTokenizer(try artifact.place(of: artifact.manifest.tokenizerFile))
    guard tokenizer.vocabSize <= artifact.manifest.vocabSize else {
        throw EdgeError(
            .tokenizer,
            "\(artifact.name): its tokenizer has \(tokenizer.vocabSize) tokens, the model knows "
                + "\(artifact.manifest.vocabSize); this tokenizer belongs to another model")
    }
    let voice = Voice(tokenizer: tokenizer, template: try ChatTemplate(of: artifact), options: options)
    return LoadedModel(artifact: artifact, engine: try factory.open(artifact, threads: nil), voice: voice)
}
