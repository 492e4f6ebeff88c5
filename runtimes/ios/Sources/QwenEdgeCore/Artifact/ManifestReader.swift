private let tokenIds = 0...16_777_215
private let counts = 1...16_777_216
private let byteCounts = 0...1_099_511_627_776

/// The checked manifest in these bytes.
///
/// A manifest may come from anywhere, so nothing in it is believed before it was checked. The rules are those of
/// `runtimes/manifest.schema.json` and `runtimes/artifact.py`; `tests/golden/manifests.json` holds all readers to them.
public func readManifest(_ bytes: [UInt8]) throws -> Manifest {
    guard bytes.count <= Manifest.maxBytes else { throw refused("the file", "is too long to be a manifest") }
    let document: JSON
    do {
        document = try JSONReader.document(bytes)
    } catch {
        throw refused("the file", "is not JSON: \(error)")
    }
    try checkVersion(document)
    var fields = try Fields(document, of: Manifest.fileName, kind: .manifest)
    let manifest = try read(&fields, sha256: artifactHash(document))
    try fields.done()
    try checkFiles(manifest)
    for tensor in manifest.state { try check(tensor, contextLength: manifest.contextLength) }
    try checkTokens(manifest)
    try checkVision(manifest)
    return manifest
}

private func refused(_ place: String, _ problem: String) -> EdgeError {
    EdgeError(.manifest, "\(Manifest.fileName): \(place): \(problem); copy the bundle again or export it again")
}

/// A newer manifest may have any fields, so its version is looked at before anything else.
private func checkVersion(_ document: JSON) throws {
    guard let version = document.object?["schema_version"]?.integer, version > Manifest.schemaVersion else { return }
    throw EdgeError(
        .newerManifest,
        "\(Manifest.fileName): schema_version \(version) was made by a newer version of this project; "
            + "this app reads \(Manifest.schemaVersion): update it, or export again")
}

/// The SHA-256 that names the artifact: everything except what was measured on it.
private func artifactHash(_ document: JSON) -> String {
    let fields = document.object?.fields.filter { $0.name != "measured" } ?? []
    let writer = JSONWriter(betweenItems: ",", afterName: ":", sortsNames: true)
    return sha256(of: writer.write(.object(JSONObject(fields: fields))))
}

private func read(_ fields: inout Fields, sha256: String) throws -> Manifest {
    _ = try fields.integer("schema_version", Manifest.schemaVersion...Manifest.schemaVersion)
    try checkToolchain(&fields)
    try checkInputs(&fields)
    try checkQuantization(&fields)
    try checkMeasured(&fields)
    return Manifest(
        model: try fields.text("model", .name),
        source: try source(&fields),
        weights: try fields.choice("weights"),
        scheme: try fields.text("scheme", .name),
        method: try fields.text("method", .name),
        backend: try fields.text("backend", .name),
        runtime: try runtime(&fields),
        contextLength: try fields.integer("context_length", counts),
        prefillChunk: try fields.integer("prefill_chunk", counts),
        vocabSize: try fields.integer("vocab_size", counts),
        eosTokenIds: try fields.integers("eos_token_ids", tokenIds, 1...64),
        padTokenId: try fields.integerOrNull("pad_token_id", tokenIds),
        modelFile: try fields.text("model_file", .path),
        tokenizerFile: try fields.text("tokenizer_file", .path),
        chatTemplateFile: try fields.textOrNull("chat_template_file", .path),
        referenceFile: try fields.textOrNull("reference_file", .path),
        modalities: try fields.choices("modalities", 1...3),
        threads: try fields.integer("threads", 1...256),
        state: try fields.objects("state", 0...2048, stateTensor),
        files: try fields.objects("files", 1...1024, fileEntry),
        bytesReadPerDecodedToken: try fields.integer("bytes_read_per_decoded_token", byteCounts),
        vision: try VisionPart(of: &fields),
        sha256: sha256)
}

private func source(_ manifest: inout Fields) throws -> Source {
    var fields = try manifest.fields("source")
    let source = Source(
        kind: try fields.choice("kind"),
        id: try fields.text("id", .text),
        revision: try fields.textOrNull("revision", .text),
        sha256: try fields.textOrNull("sha256", .sha256))
    try fields.done()
    return source
}

private func runtime(_ manifest: inout Fields) throws -> RuntimeVersion {
    var fields = try manifest.fields("runtime")
    let runtime = RuntimeVersion(
        name: try fields.text("name", .name),
        version: try fields.text("version", .name),
        oldestVersion: try fields.text("oldest_version", .name))
    try fields.done()
    return runtime
}

private func stateTensor(_ fields: inout Fields) throws -> StateTensor {
    StateTensor(
        name: try fields.text("name", .text),
        kind: try fields.choice("kind"),
        layer: try fields.integer("layer", 0...1023),
        shape: try fields.integers("shape", counts, 1...8),
        dtype: try fields.choice("dtype"),
        bytes: try fields.integer("bytes", byteCounts),
        inputName: try fields.textOrNull("input_name", .text),
        outputName: try fields.textOrNull("output_name", .text),
        tokenAxis: try fields.integerOrNull("token_axis", 0...7))
}

private func fileEntry(_ fields: inout Fields) throws -> FileEntry {
    FileEntry(
        path: try fields.text("path", .path),
        bytes: try fields.integer("bytes", byteCounts),
        sha256: try fields.text("sha256", .sha256))
}

// What only the exporter needs is checked for its form and not kept.

private func checkInputs(_ manifest: inout Fields) throws {
    var fields = try manifest.fields("inputs")
    _ = try fields.text("spec_hash", .sha256)
    _ = try fields.text("checkpoint_hash", .sha256)
    if fields.optional("calibration") != nil {
        var calibration = try fields.fields("calibration")
        let _: Calibration = try calibration.choice("kind")
        _ = try calibration.text("sha256", .sha256)
        _ = try calibration.integer("tokens", 1...byteCounts.upperBound)
        try calibration.done()
    }
    try fields.done()
}

private enum Calibration: String { case file, answers, text }

private func checkQuantization(_ manifest: inout Fields) throws {
    guard manifest.optional("quantization") != nil else { return }
    var fields = try manifest.fields("quantization")
    for format in try fields.entries("formats") {
        _ = try fields.checked(format.value, "formats.\(format.name)", .weightFormat)
    }
    _ = try fields.text("activations", .text)
    try checkObjectOrNull(fields.optional("search"), "quantization.search")
    try fields.done()
}

private func checkMeasured(_ manifest: inout Fields) throws {
    var fields = try manifest.fields("measured")
    for name in ["parity", "quality"] { try checkObjectOrNull(try fields.value(name), "measured.\(name)") }
    try fields.done()
}

private func checkToolchain(_ manifest: inout Fields) throws {
    let tools = try manifest.entries("toolchain")
    guard tools.count <= 64 else { throw refused("toolchain", "has \(tools.count) tools, expected 64 at most") }
    for tool in tools { _ = try manifest.checked(tool.value, "toolchain.\(tool.name)", .text) }
}

private func checkObjectOrNull(_ value: JSON?, _ place: String) throws {
    guard let value, value != .null, value.object == nil else { return }
    throw refused(place, "expected an object or null, found \(value.kind)")
}

private func checkFiles(_ manifest: Manifest) throws {
    let listed = manifest.files.map(\.path)
    for path in listed { try checkPath(path) }
    // two names that differ in case only are one file on a Mac
    try checkUnique(listed.map { $0.lowercased() }, "file")
    let roles = [
        ("model_file", manifest.modelFile), ("tokenizer_file", manifest.tokenizerFile),
        ("chat_template_file", manifest.chatTemplateFile), ("reference_file", manifest.referenceFile),
    ]
    for (role, path) in roles {
        if let path, !listed.contains(path) { throw refused(role, "'\(path)' is not among its files") }
    }
}

private func checkPath(_ path: String) throws {
    let parts = path.unicodeScalars.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
    let isPlain = parts.allSatisfy { !["", ".", ".."].contains($0) }
    guard isPlain, !path.unicodeScalars.contains(where: { "\\:\0".unicodeScalars.contains($0) }) else {
        throw refused("files", "file path '\(path)' must be relative, plain and stay inside the artifact")
    }
    if path.lowercased() == Manifest.fileName { throw refused("files", "'\(path)' cannot list itself") }
}

private func check(_ tensor: StateTensor, contextLength: Int) throws {
    let wanted = tensor.shape.reduce(tensor.dtype.bytes) { $0.multipliedClamped(by: $1) }
    guard tensor.bytes == wanted else {
        throw refused("state", "'\(tensor.name)' says \(tensor.bytes) bytes, its shape has \(wanted)")
    }
    guard (tensor.inputName == nil) == (tensor.outputName == nil) else {
        throw refused("state", "'\(tensor.name)' needs input_name and output_name, or neither")
    }
    guard let axis = tensor.tokenAxis else { return }
    guard axis < tensor.shape.count, tensor.shape[axis] >= contextLength else {
        throw refused(
            "state",
            "'\(tensor.name)' of shape \(tensor.shape) has no room for context_length \(contextLength) on token_axis \(axis)")
    }
}

private func checkTokens(_ manifest: Manifest) throws {
    try checkUnique(manifest.state.map(\.name), "state tensor")
    try checkUnique(manifest.eosTokenIds.map { "eos_token_ids \($0)" }, "token")
    try checkUnique(manifest.modalities.map(\.rawValue), "modality")
    let special = manifest.eosTokenIds + [manifest.padTokenId].compactMap { $0 }
    if let outside = special.first(where: { $0 >= manifest.vocabSize }) {
        throw refused("eos_token_ids", "token id \(outside) is outside vocab_size \(manifest.vocabSize)")
    }
    guard manifest.prefillChunk <= manifest.contextLength else {
        throw refused("prefill_chunk", "\(manifest.prefillChunk) is longer than context_length \(manifest.contextLength)")
    }
}

/// There is a part that sees exactly where "image" is among the modalities.
private func checkVision(_ manifest: Manifest) throws {
    guard (manifest.vision != nil) == manifest.modalities.contains(.image) else {
        let has = manifest.vision == nil ? "no vision" : "vision"
        throw refused("modalities", "are \(manifest.modalities.map(\.rawValue)), yet there is \(has)")
    }
    try manifest.vision?.check(manifest)
}

private func checkUnique(_ names: [String], _ what: String) throws {
    var seen: Set<String> = []
    if let twice = names.first(where: { !seen.insert($0).inserted }) {
        throw refused(what, "'\(twice)' is listed twice")
    }
}

extension Int {
    /// A product that stays the largest number there is instead of trapping.
    fileprivate func multipliedClamped(by other: Int) -> Int {
        let (product, overflows) = multipliedReportingOverflow(by: other)
        return overflows ? .max : product
    }
}

extension Form {
    /// Such as `int4_g64`, `int8_row`, `float`.
    fileprivate static let weightFormat = Form(wanted: "a format of weights") { text in
        text.wholeMatch(of: /float|int[48]_(row|g[0-9]{1,7})/) != nil
    }
}
