package org.qwenedge.core.artifact

import java.io.IOException
import org.qwenedge.core.FileMismatchException
import org.qwenedge.core.json.JsonException
import org.qwenedge.core.json.JsonReader

/** A small JSON object that an artifact may hold beside its model, found by its file's name; empty where there is none. */
internal fun Artifact.sideFile(name: String): Map<*, *> {
    val path = manifest.files.map { it.path }.find { it.substringAfterLast('/') == name }
        ?: return emptyMap<String, Any?>()
    return try {
        file(path).inputStream().use { JsonReader(it).document() } as? Map<*, *>
            ?: throw FileMismatchException("$path: expected a JSON object")
    } catch (error: JsonException) {
        throw FileMismatchException("$path: not JSON: ${error.message}; import the bundle again", error)
    } catch (error: IOException) {
        throw FileMismatchException("$path: cannot be read: ${error.message}; import the bundle again", error)
    }
}
