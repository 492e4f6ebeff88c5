package org.qwenedge.core.artifact

import java.io.File
import java.io.IOException
import java.io.InputStream
import org.qwenedge.core.FileMismatchException
import org.qwenedge.core.NoSpaceException
import org.qwenedge.core.QwenEdgeException
import org.qwenedge.core.json.JsonException
import org.qwenedge.core.json.JsonReader
import org.qwenedge.core.oracle.Oracle

/** An artifact to import, wherever it lies; paths are those of its manifest. */
fun interface ArtifactSource {
    /** The bytes of one file, or null where it does not exist. */
    fun open(path: String): InputStream?
}

/** One entry of the model picker: an artifact, or why this directory holds none. */
class Installed(val name: String, val directory: File, val artifact: Artifact?, val problem: String?)

/**
 * The artifacts on this device: those pushed by adb or copied into [pushed], and those imported into [imported].
 *
 * An import is complete or invisible: files arrive in a hidden directory, are compared with their hashes on the way,
 * and one rename makes the artifact appear. Pushed files are compared before their first use; [notes] remembers that.
 */
class BundleStore(private val imported: File, private val pushed: List<File>, private val notes: File) {
    /** Everything that looks like an artifact, one or two levels deep; broken ones with the reason. */
    fun list(): List<Installed> =
        (pushed + imported).flatMap { root -> artifactDirectories(root).map { installed(root, it) } }

    /** Compare the files of an artifact with their hashes, unless that was done since they last changed. */
    fun verify(artifact: Artifact, progress: Progress = Progress.NONE) {
        val note = notes.resolve(artifact.manifest.sha256)
        val seen = fingerprint(artifact)
        if (note.isFile && note.readText() == seen) return
        artifact.checkHashes(progress)
        notes.mkdirs()
        note.writeText(seen)
    }

    /** Copy an artifact from outside the app, or all artifacts of a bundle with the oracle that belongs to them. */
    fun importBundle(source: ArtifactSource, progress: Progress = Progress.NONE): List<Installed> {
        val index = source.read(INDEX_FILE, Manifest.MAX_BYTES) ?: return listOf(import(source, progress))
        val oracle = source.read(Oracle.FILE_NAME, Oracle.MAX_BYTES)
        return artifactsOf(index).map { name ->
            import(ArtifactSource { path -> source.open("$name/$path") }, progress, oracle)
        }
    }

    /** Copy an artifact from outside the app. Nothing of it is believed before it was checked. */
    fun import(source: ArtifactSource, progress: Progress = Progress.NONE, oracle: ByteArray? = null): Installed {
        val bytes = source.read(Manifest.FILE_NAME, Manifest.MAX_BYTES)
            ?: throw FileMismatchException("no ${Manifest.FILE_NAME} there; choose the folder that holds it")
        val manifest = readManifest(bytes)
        val target = imported.resolve(directoryName(manifest))
        if (target.exists()) return installed(imported, target)
        checkSpace(manifest)
        val partial = imported.resolve("$PARTIAL${manifest.sha256}")
        try {
            copyAll(source, manifest, partial, progress)
            oracle?.let(partial.resolve(Oracle.FILE_NAME)::writeBytes)
            partial.resolve(Manifest.FILE_NAME).writeBytes(bytes)
            if (!partial.renameTo(target)) throw IOException("$partial could not be renamed to $target")
        } catch (error: IOException) {
            throw FileMismatchException("the import failed (${error.message}); nothing was installed, try again", error)
        } finally {
            partial.deleteRecursively()
        }
        return installed(imported, target)
    }

    /** Remove what an import that was killed has left. */
    fun cleanUp() {
        imported.listFiles { file -> file.name.startsWith(PARTIAL) }?.forEach(File::deleteRecursively)
    }

    fun delete(entry: Installed) {
        entry.directory.deleteRecursively()
    }

    private fun copyAll(source: ArtifactSource, manifest: Manifest, directory: File, progress: Progress) {
        var done = 0L
        for (entry in manifest.files) {
            val target = directory.resolve(entry.path)
            target.parentFile?.mkdirs()
            val stream = source.open(entry.path)
                ?: throw FileMismatchException("${entry.path} is missing; choose another folder")
            val (length, sha256) = target.outputStream().use { out ->
                digest(stream, out, limit = entry.bytes) { count ->
                    done += count
                    progress.report(minOf(done, manifest.totalBytes), manifest.totalBytes)
                }.also { out.fd.sync() }
            }
            if (length != entry.bytes || sha256 != entry.sha256) {
                throw FileMismatchException("${entry.path} differs from what its manifest promises; copy it anew")
            }
        }
    }

    private fun checkSpace(manifest: Manifest) {
        imported.mkdirs()
        val wanted = manifest.totalBytes + SPARE_BYTES
        if (imported.usableSpace < wanted) {
            throw NoSpaceException("${manifest.model} needs $wanted bytes, ${imported.usableSpace} are free; make room")
        }
    }

    private fun installed(root: File, directory: File): Installed {
        val name = directory.relativeTo(root).path
        return try {
            Installed(name, directory, Artifact.open(directory), problem = null)
        } catch (error: QwenEdgeException) {
            Installed(name, directory, artifact = null, problem = error.message)
        }
    }

    private fun artifactDirectories(root: File): List<File> {
        val first = visibleDirectories(root)
        return (first + first.flatMap(::visibleDirectories)).filter { it.resolve(Manifest.FILE_NAME).exists() }.sorted()
    }

    private fun visibleDirectories(root: File): List<File> =
        root.listFiles { file -> file.isDirectory && !file.name.startsWith(".") }.orEmpty().toList()

    /** Changes when a file changes, without reading it. */
    private fun fingerprint(artifact: Artifact): String = artifact.manifest.files.joinToString("\n") { entry ->
        val place = artifact.file(entry.path)
        "${place.path} ${place.length()} ${place.lastModified()}"
    }

    private fun directoryName(manifest: Manifest): String =
        listOf(manifest.model, manifest.scheme, manifest.backend, manifest.sha256.take(NAMING_DIGITS)).joinToString("-")

    private companion object {
        const val PARTIAL = ".partial-"
        const val SPARE_BYTES = 64L * 1024 * 1024
        const val NAMING_DIGITS = 8
    }
}

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
