package org.qwenedge.core.oracle

import java.io.File
import java.io.IOException
import org.qwenedge.core.OracleException
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.artifact.Fields
import org.qwenedge.core.artifact.Manifest
import org.qwenedge.core.json.JsonException
import org.qwenedge.core.json.JsonReader

/** What must come out after one position: the best ids with their logits, and the log of the sum over the vocabulary. */
class Expected(val position: Int, val ids: List<Int>, val logits: List<Double>, val logSum: Double)

/** What a tolerance bounds. */
enum class ToleranceKind(val id: String) {
    RELATIVE_MAX_ERROR("relative_max_error"),
    MEAN_DIVERGENCE("mean_kld"),
}

/**
 * What an artifact must answer: logits of the same quantized weights in eager torch, recorded where it was exported.
 *
 * The bundle's `oracle.json` (`export/oracle.py`) is small enough to ask at first launch: the file was checked where it was
 * made, but not this device's kernels. [prefillTokens] of [tokens] go in as a prompt, the rest one by one.
 */
class Oracle(
    val tokens: List<Int>,
    val prefillTokens: Int,
    val expected: List<Expected>,
    val kind: ToleranceKind,
    val tolerance: Double,
) {
    companion object {
        const val FILE_NAME = "oracle.json"
        const val MAX_BYTES = 16 * 1024 * 1024
    }
}

/** The oracle beside an artifact or in its folder; null where there is none, or where it speaks of others only. */
fun findOracle(artifact: Artifact): Oracle? {
    val folders = listOfNotNull(artifact.directory, artifact.directory.absoluteFile.parentFile)
    return folders.map { it.resolve(Oracle.FILE_NAME) }.filter(File::isFile)
        .firstNotNullOfOrNull { readOracle(bytesOf(it), artifact.manifest) }
}

private fun bytesOf(file: File): ByteArray = try {
    if (file.length() > Oracle.MAX_BYTES) refuseLength()
    file.readBytes()
} catch (error: IOException) {
    refuse("", "cannot be read: ${error.message}")
}

/** Ignored for its size, an oracle would let a model answer as it likes. */
internal fun refuseLength(): Nothing = refuse("", "more than the ${Oracle.MAX_BYTES} bytes it may have")

private const val FORMAT = 1L
private const val MAX_IDS = 1024
private val SHA256 = Regex("[0-9a-f]{64}")
private val KINDS = ToleranceKind.entries.associateBy { it.id }

/** The oracle of one artifact in these bytes; null where it speaks of others only. */
fun readOracle(bytes: ByteArray, manifest: Manifest): Oracle? {
    val document = try {
        JsonReader(bytes.inputStream()).document()
    } catch (error: JsonException) {
        refuse("", "not JSON: ${error.message}")
    }
    val file = Fields("", document, ::refuse)
    if (file.integer("format", 0L..1_000_000) != FORMAT) refuse("format", "another one than $FORMAT, which this app reads")
    val artifacts = file.value("artifacts") as? Map<*, *> ?: refuse("artifacts", "expected an object")
    return artifacts.entries.map { (name, entry) -> Fields("artifacts.$name", entry, ::refuse) }
        .find { it.text("artifact", SHA256) == manifest.sha256 }?.let { oracle(it, manifest) }
}

private fun oracle(fields: Fields, manifest: Manifest): Oracle {
    val ids = 0L..<manifest.vocabSize
    val tokens = fields.integers("tokens", ids, 1..manifest.contextLength).map(Long::toInt)
    val bound = fields.fields("tolerance")
    return Oracle(
        tokens = tokens,
        prefillTokens = fields.integer("prefill_tokens", 1L..tokens.size).toInt(),
        expected = fields.objects("positions", 1..tokens.size) { expected(it, tokens.size, ids) },
        kind = KINDS.getValue(bound.choice("kind", KINDS.keys)),
        tolerance = bound.number("value", 0.0, 1.0),
    )
}

private fun expected(fields: Fields, count: Int, ids: LongRange): Expected {
    val found = Expected(
        position = fields.integer("position", 0L..<count).toInt(),
        ids = fields.integers("ids", ids, 2..MAX_IDS).map(Long::toInt),
        logits = fields.numbers("logits", -Double.MAX_VALUE, Double.MAX_VALUE, 2..MAX_IDS),
        logSum = fields.number("log_sum", -Double.MAX_VALUE, Double.MAX_VALUE),
    )
    if (found.ids.size != found.logits.size) refuse("positions", "${found.logits.size} logits for ${found.ids.size} ids")
    return found
}

private fun refuse(place: String, problem: String): Nothing {
    val where = if (place.isEmpty()) Oracle.FILE_NAME else "${Oracle.FILE_NAME}: $place"
    throw OracleException("$where: $problem; copy the bundle again")
}
