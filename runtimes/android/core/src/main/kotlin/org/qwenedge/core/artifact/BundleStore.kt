package org.qwenedge.core.artifact

import java.io.File
import java.io.IOException
import org.qwenedge.core.FileMismatchException
import org.qwenedge.core.NoSpaceException
import org.qwenedge.core.QwenEdgeException

/** One entry of the model picker: an artifact, or why this directory holds none. */
class Installed(val name: String, val directory: File, val artifact: Artifact?, val problem: String?)

/**
 * The artifacts on this device: those pushed by adb or copied into [pushed], and those imported into [imported].
 *
 * An import is complete or invisible, a bundle's as a whole: files arrive in hidden directories, are compared with their
 * hashes on the way, and renames at the end make the artifacts appear. Pushed files are compared before their first use;
 * [notes] remembers that.
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

    /** Copy the artifact in a folder outside the app, or all artifacts of the bundle in it: every one of them, or none. */
    fun importBundle(source: ArtifactSource, progress: Progress = Progress.NONE): List<Installed> {
        val arrivals = artifactsIn(source).map { arrival(it, imported) }.distinctBy { it.target }
        return install(arrivals, oracleIn(source), progress)
    }

    /** Remove what an import that was killed has left. */
    fun cleanUp() {
        imported.listFiles { file -> file.name.startsWith(PARTIAL) }?.forEach(File::deleteRecursively)
    }

    fun delete(entry: Installed) {
        entry.directory.deleteRecursively()
    }

    /** Artifacts that are here already get the oracle, so that one that was imported alone is asked from now on. */
    private fun install(arrivals: List<Arrival>, oracle: ByteArray?, progress: Progress): List<Installed> {
        val (known, new) = arrivals.partition { it.target.exists() }
        checkSpace(new, oracle)
        try {
            copyAll(new, progress)
            new.forEach { it.seal(oracle) }
            if (oracle != null) known.forEach { it.stage(oracle) }
            if (oracle != null) known.forEach(Arrival::moveOracle)
            moveAll(new)
        } catch (error: IOException) {
            throw FileMismatchException("the import failed (${error.message}); nothing was installed, try again", error)
        } finally {
            arrivals.forEach { it.partial.deleteRecursively() }
        }
        return arrivals.map { installed(imported, it.target) }
    }

    private fun copyAll(arrivals: List<Arrival>, progress: Progress) {
        val total = arrivals.sumOf { it.manifest.totalBytes }
        var done = 0L
        for (arrival in arrivals) {
            arrival.copyAll { count ->
                done += count
                progress.report(minOf(done, total), total)
            }
        }
    }

    /** One rename makes an artifact appear; where one fails, those before it are taken back. */
    private fun moveAll(arrivals: List<Arrival>) {
        val moved = ArrayList<Arrival>()
        try {
            for (arrival in arrivals) {
                arrival.move()
                moved += arrival
            }
        } catch (error: IOException) {
            moved.forEach { it.target.deleteRecursively() }
            throw error
        }
    }

    private fun checkSpace(arrivals: List<Arrival>, oracle: ByteArray?) {
        imported.mkdirs()
        val free = imported.usableSpace
        var wanted = SPARE_BYTES
        for (arrival in arrivals) wanted = minOf(wanted + arrival.manifest.totalBytes + (oracle?.size ?: 0), MOST_BYTES)
        if (arrivals.isEmpty() || free >= wanted) return
        val models = arrivals.map { it.manifest.model }.distinct().joinToString(" and ")
        throw NoSpaceException("$models needs $wanted bytes, $free are free; make room")
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

    private companion object {
        const val SPARE_BYTES = 64L * 1024 * 1024
        const val MOST_BYTES = 1L shl 60  // beyond any device: a sum of many promises must not wrap around
    }
}
