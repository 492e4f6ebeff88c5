package org.qwenedge.core.artifact

import org.qwenedge.core.vision.ImageSpec

/** Everything a runner needs to know about an artifact; field by field that of `runtimes/manifest.schema.json`. */
data class Manifest(
    val model: String,
    val source: Source,
    val weights: String,
    val scheme: String,
    val method: String,
    val backend: String,
    val runtime: RuntimeVersion,
    val contextLength: Int,
    val prefillChunk: Int,
    val vocabSize: Int,
    val eosTokenIds: List<Int>,
    val padTokenId: Int?,
    val modelFile: String,
    val tokenizerFile: String,
    val chatTemplateFile: String?,
    val referenceFile: String?,
    val modalities: List<String>,
    val threads: Int,
    val state: List<StateTensor>,
    val files: List<FileEntry>,
    val bytesReadPerDecodedToken: Long,
    val vision: Vision?,
    val sha256: String,
) {
    /** What the files take on disk. */
    val totalBytes: Long get() = files.sumOf { it.bytes }

    /** What the state of one sequence takes, its caches filled to the end. */
    val stateBytes: Long get() = state.sumOf { it.bytes }

    companion object {
        const val FILE_NAME = "manifest.json"
        const val SCHEMA_VERSION = 1L
        const val MAX_BYTES = 4 * 1024 * 1024
    }
}

/** Where the checkpoint came from. */
data class Source(val kind: String, val id: String, val revision: String?, val sha256: String?)

/** The engine that runs the file, and the oldest of its versions that can. */
data class RuntimeVersion(val name: String, val version: String, val oldestVersion: String)

/** One tensor that lives from call to call; [tokenAxis] is the axis that holds one entry a token. */
data class StateTensor(
    val name: String,
    val kind: String,
    val layer: Int,
    val shape: List<Long>,
    val dtype: String,
    val bytes: Long,
    val inputName: String?,
    val outputName: String?,
    val tokenAxis: Int?,
)

/** The part of an artifact that sees: its files, the tokens around an image, and how an image is prepared. */
data class Vision(
    val towerFile: String,
    val embeddingFile: String,
    val hiddenSize: Int,
    val imageTokenId: Int,
    val startTokenId: Int,
    val endTokenId: Int,
    val images: ImageSpec,
)

/** One file of the artifact, its path relative to the manifest. */
data class FileEntry(val path: String, val bytes: Long, val sha256: String)
