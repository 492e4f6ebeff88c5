package org.qwenedge.core.artifact

import java.io.ByteArrayInputStream
import java.security.MessageDigest
import java.util.Locale
import org.qwenedge.core.ManifestVersionException
import org.qwenedge.core.json.JsonException
import org.qwenedge.core.json.JsonReader
import org.qwenedge.core.json.JsonWriter
import org.qwenedge.core.vision.Grid
import org.qwenedge.core.vision.ImageSpec

private val NAME = Regex("[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
private val TEXT = Regex("(?s).{1,4096}")
private val PATH = Regex("(?s).{1,512}")
private val SHA256 = Regex("[0-9a-f]{64}")
private val FORMAT = Regex("float|int[48]_(row|g[0-9]{1,7})")
private val TOWER_FORMAT = Regex("float|int8_row")
private val PIXELS = 1L..(1L shl 30)
private val BYTES = 0L..(1L shl 40)
private val COUNT = 1L..(1L shl 24)
private val TOKEN_ID = 0L..<(1L shl 24)
private val LAYERS = 0L..1023
private val AXES = 1..8
private val KINDS = setOf("conv", "recurrent", "key", "value")
private val HUBS = setOf("huggingface", "modelscope", "local", "random")
private val DTYPE_BYTES = mapOf("float32" to 4L, "float16" to 2L, "int8" to 1L, "uint8" to 1L)
private val CALIBRATIONS = setOf("file", "answers", "text")

/** The checked manifest in these bytes, which may come from anywhere. */
fun readManifest(bytes: ByteArray): Manifest {
    if (bytes.size > Manifest.MAX_BYTES) refuse("", "${bytes.size} bytes; a manifest has ${Manifest.MAX_BYTES} at most")
    val document = try {
        JsonReader(ByteArrayInputStream(bytes)).document()
    } catch (error: JsonException) {
        refuse("", "not JSON: ${error.message}")
    }
    checkVersion(document)
    val fields = Fields("", document)
    val manifest = manifest(fields, artifactHash(document as Map<*, *>))
    fields.done()
    checkFiles(manifest)
    manifest.state.forEach { checkState(it, manifest) }
    checkTokens(manifest)
    checkVision(manifest)
    return manifest
}

private fun checkVersion(document: Any?) {
    val version = (document as? Map<*, *>)?.get("schema_version") as? Long ?: return
    if (version <= Manifest.SCHEMA_VERSION) return
    throw ManifestVersionException(
        "${Manifest.FILE_NAME}: schema_version $version was made by a newer version of this project; " +
            "this app reads ${Manifest.SCHEMA_VERSION}: update it, or export again",
    )
}

/** The SHA-256 that names the artifact: everything except what was measured on it. */
private fun artifactHash(document: Map<*, *>): String {
    val canonical = JsonWriter(betweenItems = ",", afterKey = ":", sortKeys = true).write(document - "measured")
    return hex(MessageDigest.getInstance("SHA-256").digest(canonical.toByteArray()))
}

private fun manifest(fields: Fields, sha256: String): Manifest {
    fields.integer("schema_version", Manifest.SCHEMA_VERSION..Manifest.SCHEMA_VERSION)
    checkToolchain(fields.value("toolchain"))
    fields.fields("inputs").let(::checkInputs)
    checkQuantization(fields.optional("quantization"))
    fields.fields("measured").let(::checkMeasured)
    return Manifest(
        model = fields.text("model", NAME),
        source = fields.fields("source").let(::source),
        weights = fields.choice("weights", setOf("trained", "random")),
        scheme = fields.text("scheme", NAME),
        method = fields.text("method", NAME),
        backend = fields.text("backend", NAME),
        runtime = fields.fields("runtime").let(::runtime),
        contextLength = fields.integer("context_length", COUNT).toInt(),
        prefillChunk = fields.integer("prefill_chunk", COUNT).toInt(),
        vocabSize = fields.integer("vocab_size", COUNT).toInt(),
        eosTokenIds = fields.integers("eos_token_ids", TOKEN_ID, 1..64).map(Long::toInt),
        padTokenId = fields.integerOrNull("pad_token_id", TOKEN_ID)?.toInt(),
        modelFile = fields.text("model_file", PATH),
        tokenizerFile = fields.text("tokenizer_file", PATH),
        chatTemplateFile = fields.textOrNull("chat_template_file", PATH),
        referenceFile = fields.textOrNull("reference_file", PATH),
        modalities = fields.choices("modalities", setOf("text", "image", "video"), 1..3),
        threads = fields.integer("threads", 1L..256).toInt(),
        state = fields.objects("state", 0..2048, ::stateTensor),
        files = fields.objects("files", 1..1024, ::fileEntry),
        bytesReadPerDecodedToken = fields.integer("bytes_read_per_decoded_token", BYTES),
        vision = if (fields.optional("vision") == null) null else fields.fields("vision").let(::vision),
        sha256 = sha256,
    )
}

private fun source(fields: Fields) = Source(
    kind = fields.choice("kind", HUBS),
    id = fields.text("id", TEXT),
    revision = fields.textOrNull("revision", TEXT),
    sha256 = fields.textOrNull("sha256", SHA256),
).also { fields.done() }

private fun runtime(fields: Fields) = RuntimeVersion(
    name = fields.text("name", NAME),
    version = fields.text("version", NAME),
    oldestVersion = fields.text("oldest_version", NAME),
).also { fields.done() }

private fun stateTensor(fields: Fields) = StateTensor(
    name = fields.text("name", TEXT),
    kind = fields.choice("kind", KINDS),
    layer = fields.integer("layer", LAYERS).toInt(),
    shape = fields.integers("shape", COUNT, AXES),
    dtype = fields.choice("dtype", DTYPE_BYTES.keys),
    bytes = fields.integer("bytes", BYTES),
    inputName = fields.textOrNull("input_name", TEXT),
    outputName = fields.textOrNull("output_name", TEXT),
    tokenAxis = fields.integerOrNull("token_axis", 0L..7)?.toInt(),
)

private fun fileEntry(fields: Fields) = FileEntry(
    path = fields.text("path", PATH),
    bytes = fields.integer("bytes", BYTES),
    sha256 = fields.text("sha256", SHA256),
)

private fun vision(fields: Fields): Vision {
    fields.text("format", TOWER_FORMAT)
    return Vision(
        towerFile = fields.text("tower_file", PATH),
        embeddingFile = fields.text("embedding_file", PATH),
        hiddenSize = fields.integer("hidden_size", 1L..(1L shl 20)).toInt(),
        imageTokenId = fields.integer("image_token_id", TOKEN_ID).toInt(),
        startTokenId = fields.integer("vision_start_token_id", TOKEN_ID).toInt(),
        endTokenId = fields.integer("vision_end_token_id", TOKEN_ID).toInt(),
        images = fields.fields("images").let(::imageSpec),
    ).also { fields.done() }
}

private fun imageSpec(fields: Fields) = ImageSpec(
    patchSize = fields.integer("patch_size", 1L..256).toInt(),
    temporalPatchSize = fields.integer("temporal_patch_size", 1L..16).toInt(),
    mergeSize = fields.integer("merge_size", 1L..16).toInt(),
    minPixels = fields.integer("min_pixels", PIXELS).toInt(),
    maxPixels = fields.integer("max_pixels", PIXELS).toInt(),
    mean = fields.numbers("mean", above = 0.0, most = 1000.0, count = 3..3),
    std = fields.numbers("std", above = 0.0, most = 1000.0, count = 3..3),
    grids = if (fields.has("grids")) grids(fields) else emptyList(),
).also { fields.done() }

/** The only images that a tower takes. */
private fun grids(fields: Fields): List<Grid> {
    val grids = fields.pairs("grids", 1L..4096, 1..64).map { (height, width) -> Grid(height.toInt(), width.toInt()) }
    if (grids.toSet().size < grids.size) refuse("vision.images.grids", "one is listed twice")
    return grids
}

/** What only the exporter needs is checked for its form and not kept. */
private fun checkInputs(fields: Fields) {
    fields.text("spec_hash", SHA256)
    fields.text("checkpoint_hash", SHA256)
    if (fields.optional("calibration") != null) {
        val calibration = fields.fields("calibration")
        calibration.choice("kind", CALIBRATIONS)
        calibration.text("sha256", SHA256)
        calibration.integer("tokens", 1L..BYTES.last)
        calibration.done()
    }
    fields.done()
}

private fun checkQuantization(value: Any?) {
    val fields = Fields("quantization", value ?: return)
    val formats = fields.value("formats") as? Map<*, *> ?: refuse("quantization.formats", "expected an object")
    formats.values.find { it !is String || !FORMAT.matches(it) }?.let { refuse("quantization.formats", "unknown format '$it'") }
    fields.text("activations", TEXT)
    checkObjectOrNull(fields.optional("search"), "quantization.search")
    fields.done()
}

private fun checkMeasured(fields: Fields) {
    for (name in listOf("parity", "quality")) checkObjectOrNull(fields.value(name), "measured.$name")
    fields.done()
}

private fun checkToolchain(value: Any?) {
    val tools = value as? Map<*, *> ?: refuse("toolchain", "expected an object")
    if (tools.size > 64 || tools.values.any { it !is String || !TEXT.matches(it) }) {
        refuse("toolchain", "not names with versions")
    }
}

private fun checkObjectOrNull(value: Any?, place: String) {
    if (value != null && value !is Map<*, *>) refuse(place, "expected an object or null")
}

private fun checkFiles(manifest: Manifest) {
    val listed = manifest.files.map { it.path }
    listed.forEach(::checkPath)
    // two names that differ in case only are one file on some file systems
    checkUnique(listed.map { it.lowercase(Locale.ROOT) }, "file")
    val roles = mapOf(
        "model_file" to manifest.modelFile,
        "tokenizer_file" to manifest.tokenizerFile,
        "chat_template_file" to manifest.chatTemplateFile,
        "reference_file" to manifest.referenceFile,
    )
    for ((role, path) in roles) if (path != null && path !in listed) refuse(role, "'$path' is not among its files")
}

private fun checkPath(path: String) {
    val plain = path.split('/').none { it.isEmpty() || it == "." || it == ".." } && path.none { it in "\\:\u0000" }
    if (!plain) refuse("files", "file path '$path' must be relative, plain and stay inside the artifact")
    if (path.lowercase(Locale.ROOT) == Manifest.FILE_NAME) refuse("files", "'$path' cannot list itself")
}

private fun checkState(tensor: StateTensor, manifest: Manifest) {
    val wanted = tensor.shape.fold(DTYPE_BYTES.getValue(tensor.dtype), ::multiplySafely)
    if (tensor.bytes != wanted) refuse("state", "'${tensor.name}' says ${tensor.bytes} bytes, its shape has $wanted")
    if ((tensor.inputName == null) != (tensor.outputName == null)) {
        refuse("state", "'${tensor.name}' needs input_name and output_name, or neither")
    }
    val axis = tensor.tokenAxis ?: return
    if (axis >= tensor.shape.size || tensor.shape[axis] < manifest.contextLength) {
        val room = "context_length ${manifest.contextLength} on token_axis $axis"
        refuse("state", "'${tensor.name}' of shape ${tensor.shape} has no room for $room")
    }
}

private fun checkTokens(manifest: Manifest) {
    checkUnique(manifest.state.map { it.name }, "state tensor")
    checkUnique(manifest.eosTokenIds.map { "eos_token_ids $it" }, "token")
    checkUnique(manifest.modalities, "modality")
    val outside = (manifest.eosTokenIds + listOfNotNull(manifest.padTokenId)).find { it >= manifest.vocabSize }
    if (outside != null) refuse("eos_token_ids", "token id $outside is outside vocab_size ${manifest.vocabSize}")
    if (manifest.prefillChunk > manifest.contextLength) {
        refuse("prefill_chunk", "${manifest.prefillChunk} is longer than context_length ${manifest.contextLength}")
    }
}

/** There is a part that sees exactly where "image" is among the modalities. */
private fun checkVision(manifest: Manifest) {
    val vision = manifest.vision
    if ((vision == null) == ("image" in manifest.modalities)) {
        refuse("vision", "modalities ${manifest.modalities} ${if (vision == null) "without" else "with"} vision")
    }
    if (vision == null) return
    val listed = manifest.files.map { it.path }
    listOf(vision.towerFile, vision.embeddingFile).find { it !in listed }
        ?.let { refuse("vision", "vision file '$it' is not among its files") }
    listOf(vision.imageTokenId, vision.startTokenId, vision.endTokenId).find { it >= manifest.vocabSize }
        ?.let { refuse("vision", "vision token id $it is outside vocab_size ${manifest.vocabSize}") }
    val images = vision.images
    if (images.factor.toLong() * images.factor > images.maxPixels || images.minPixels > images.maxPixels) {
        refuse("vision.images", "images of ${images.minPixels} to ${images.maxPixels} pixels are no range that one token fits")
    }
    images.grids.find { it.cells.toLong() * images.factor * images.factor > images.maxPixels }
        ?.let { refuse("vision.images", "a grid of ${it.height} x ${it.width} tokens has more than max_pixels ${images.maxPixels}") }
}

private fun checkUnique(names: List<String>, what: String) {
    val seen = HashSet<String>()
    names.find { !seen.add(it) }?.let { refuse("", "$what '$it' is listed twice") }
}

/** A product that stays the largest number there is instead of starting over. */
private fun multiplySafely(first: Long, second: Long): Long =
    if (first > Long.MAX_VALUE / second) Long.MAX_VALUE else first * second
