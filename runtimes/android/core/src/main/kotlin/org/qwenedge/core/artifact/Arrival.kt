package org.qwenedge.core.artifact

import java.io.File
import java.io.IOException
import java.io.InputStream
import org.qwenedge.core.FileMismatchException
import org.qwenedge.core.json.JsonException
import org.qwenedge.core.json.JsonReader
import org.qwenedge.core.oracle.Oracle
import org.qwenedge.core.oracle.refuseLength

/** An artifact to import, wherever it lies; paths are those of its manifest. */
fun interface ArtifactSource {
    /** The bytes of one file, or null where it does not exist. */
    fun open(path: String): InputStream?
}

/** What hidden directories of an import begin with. */
internal const val PARTIAL = ".partial-"

/** An artifact on its way from [source] by the hidden directory [partial] to [target]. */
internal class Arrival(
    private val source: ArtifactSource,
    private val bytes: ByteArray,
    val manifest: Manifest,
    val partial: File,
    val target: File,
) {
    /** Copy every file, and compare it with what the manifest promises on the way. */
    fun copyAll(onBytes: (Int) -> Unit) {
        for (entry in manifest.files) {
            val place = partial.resolve(entry.path)
            place.parentFile?.mkdirs()
            val stream = source.open(entry.path)
                ?: throw FileMismatchException("${entry.path} is missing; choose another folder")
            val (length, sha256) = place.outputStream().use { out ->
                digest(stream, out, limit = entry.bytes, onBytes).also { out.fd.sync() }
            }
            if (length != entry.bytes || sha256 != entry.sha256) {
                throw FileMismatchException("${entry.path} differs from what its manifest promises; copy it anew")
            }
        }
    }

    /** Make an artifact of the files that were copied. */
    fun seal(oracle: ByteArray?) {
        oracle?.let(::stage)
        partial.resolve(Manifest.FILE_NAME).writeBytes(bytes)
    }

    fun stage(oracle: ByteArray) {
        partial.mkdirs()
        partial.resolve(Oracle.FILE_NAME).writeBytes(oracle)
    }

    fun move() = rename(partial, target)

    fun moveOracle() = rename(partial.resolve(Oracle.FILE_NAME), target.resolve(Oracle.FILE_NAME))

    private fun rename(from: File, to: File) {
        if (!from.renameTo(to)) throw IOException("$from could not be renamed to $to")
    }
}

/** Nothing of a source is believed before it was checked; its manifest is read here, its files by [Arrival.copyAll]. */
internal fun arrival(source: ArtifactSource, folder: File): Arrival {
    val bytes = source.read(Manifest.FILE_NAME, Manifest.MAX_BYTES)
        ?: throw FileMismatchException("no ${Manifest.FILE_NAME} there; choose the folder that holds it")
    val manifest = readManifest(bytes)
    val name = listOf(manifest.model, manifest.scheme, manifest.backend, manifest.sha256.take(NAMING_DIGITS)).joinToString("-")
    return Arrival(source, bytes, manifest, folder.resolve("$PARTIAL${manifest.sha256}"), folder.resolve(name))
}

/** The artifacts of the bundle in a folder, which its `bundle.json` names; without one, the folder is an artifact. */
internal fun artifactsIn(source: ArtifactSource): List<ArtifactSource> {
    val index = source.read(INDEX_FILE, Manifest.MAX_BYTES) ?: return listOf(source)
    return artifactsOf(index).map { name -> ArtifactSource { path -> source.open("$name/$path") } }
}

/** The oracle in a folder; null where there is none. */
internal fun oracleIn(source: ArtifactSource): ByteArray? {
    val bytes = source.read(Oracle.FILE_NAME, Oracle.MAX_BYTES) ?: return null
    if (bytes.size > Oracle.MAX_BYTES) refuseLength()
    return bytes
}

private const val NAMING_DIGITS = 8
private const val INDEX_FILE = "bundle.json"
private val FOLDER = Regex("[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")

/** What `bundle.json` calls its artifacts: the names of their folders. */
private fun artifactsOf(index: ByteArray): List<String> = try {
    val artifacts = (JsonReader(index.inputStream()).document() as? Map<*, *>)?.get("artifacts") as? Map<*, *>
    artifacts?.keys.orEmpty().map { "$it" }.filter(FOLDER::matches)
        .ifEmpty { throw FileMismatchException("$INDEX_FILE names no artifact; export the bundle again") }
} catch (error: JsonException) {
    throw FileMismatchException("$INDEX_FILE: not JSON: ${error.message}; copy the bundle again", error)
}

/** The bytes of a small file, one more than [limit] where it is longer; null where it does not exist. */
private fun ArtifactSource.read(path: String, limit: Int): ByteArray? = try {
    this.open(path)?.use { it.readAtMost(limit + 1) }
} catch (error: IOException) {
    throw FileMismatchException("$path cannot be read (${error.message}); copy it again", error)
}

private fun InputStream.readAtMost(limit: Int): ByteArray {
    val buffer = ByteArray(limit)
    var length = 0
    while (length < limit) {
        val count = read(buffer, length, limit - length)
        if (count < 0) break
        length += count
    }
    return buffer.copyOf(length)
}
