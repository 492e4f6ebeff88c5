package org.qwenedge.core.artifact

import java.io.File
import java.io.IOException
import org.qwenedge.core.ArtifactException
import org.qwenedge.core.FileMismatchException
import org.qwenedge.core.ManifestException

/** Told how many of how many bytes are done; ends the work by throwing. */
fun interface Progress {
    fun report(done: Long, total: Long)

    companion object {
        val NONE = Progress { _, _ -> }
    }
}

/** A directory whose manifest was read and whose files have the promised lengths. */
class Artifact private constructor(val directory: File, val manifest: Manifest) {
    val modelFile: File get() = file(manifest.modelFile)
    val tokenizerFile: File get() = file(manifest.tokenizerFile)
    val chatTemplateFile: File? get() = manifest.chatTemplateFile?.let(::file)

    /** The place of a file of the artifact, refused if a symbolic link leads it outside. */
    fun file(path: String): File {
        val place = directory.resolve(path)
        if (!place.canonicalFile.startsWith(directory.canonicalFile)) {
            throw ManifestException("$directory: '$path' leads outside the artifact; import it again")
        }
        return place
    }

    /** Read every file whole and compare its SHA-256; takes a second per gigabyte or more. */
    fun checkHashes(progress: Progress = Progress.NONE) {
        var done = 0L
        for (entry in manifest.files) {
            val place = file(entry.path)
            val (_, found) = reading(place) {
                digest(place.inputStream(), target = null, limit = entry.bytes) { count ->
                    done += count
                    progress.report(done, manifest.totalBytes)
                }
            }
            if (found != entry.sha256) {
                throw FileMismatchException("$place: its SHA-256 is not that of the manifest; copy or import it again")
            }
        }
    }

    private fun checkLengths() {
        for (entry in manifest.files) {
            val place = file(entry.path)
            if (!place.isFile) throw FileMismatchException("$place: listed in the manifest but missing; copy it again")
            if (place.length() != entry.bytes) {
                throw FileMismatchException(
                    "$place: ${place.length()} bytes, the manifest says ${entry.bytes}; copy it again",
                )
            }
        }
    }

    companion object {
        /** Check the manifest, and that each file is there with the promised length. */
        fun open(directory: File): Artifact {
            val place = directory.resolve(Manifest.FILE_NAME)
            if (!place.isFile) {
                throw ArtifactException("$directory: no ${Manifest.FILE_NAME} here, so no finished artifact")
            }
            if (place.length() > Manifest.MAX_BYTES) throw ManifestException("$place: too long to be a manifest")
            val manifest = readManifest(reading(place) { place.readBytes() })
            return Artifact(directory, manifest).also { it.checkLengths() }
        }

        private fun <T> reading(place: File, read: () -> T): T = try {
            read()
        } catch (error: IOException) {
            throw FileMismatchException("$place: cannot be read (${error.message}); copy it again", error)
        }
    }
}
