package org.qwenedge.engine

import java.io.File
import java.security.MessageDigest
import org.qwenedge.core.Golden
import org.qwenedge.core.artifact.ArtifactSource
import org.qwenedge.core.artifact.Manifest
import org.qwenedge.core.json.JsonReader
import org.qwenedge.core.json.JsonWriter

/** A folder that looks like what the exporter writes: the tiny model's real tokenizer and template, weights of a few bytes. */
class TestArtifact(val directory: File) {
    private val manifest = LinkedHashMap(JsonReader(Golden.file("manifest.json").readText()).document() as Map<*, *>)

    init {
        directory.mkdirs()
        for (name in listOf("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")) {
            Golden.repository.resolve("export/models/tiny/$name").copyTo(directory.resolve(name))
        }
        directory.resolve("model.onnx").writeText("weights")
        manifest["vocab_size"] = 2048L
        manifest["context_length"] = 256L
        manifest["eos_token_ids"] = listOf(2018L, 2016L)
        manifest["pad_token_id"] = 2016L
        manifest["reference_file"] = null
        seal()
    }

    /** Change the manifest, hashes and all. */
    fun change(name: String, value: Any?): TestArtifact {
        manifest[name] = value
        return seal()
    }

    /** Spoil a file behind the manifest's back. */
    fun spoil(name: String, text: String): TestArtifact {
        directory.resolve(name).writeText(text)
        return this
    }

    /** The folder as an import sees it. */
    fun asSource() = ArtifactSource { path -> directory.resolve(path).takeIf { it.isFile }?.inputStream() }

    private fun seal(): TestArtifact {
        manifest["files"] = directory.walk().filter { it.isFile && it.name != Manifest.FILE_NAME }.sorted().map(::entry).toList()
        directory.resolve(Manifest.FILE_NAME).writeText(JsonWriter(indent = 2).write(manifest))
        return this
    }

    private fun entry(file: File): Map<String, Any?> {
        val digest = MessageDigest.getInstance("SHA-256").digest(file.readBytes()).joinToString("") { "%02x".format(it) }
        return mapOf("path" to file.relativeTo(directory).path, "bytes" to file.length(), "sha256" to digest)
    }
}
