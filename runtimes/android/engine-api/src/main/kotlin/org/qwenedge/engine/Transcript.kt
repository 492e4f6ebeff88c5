package org.qwenedge.engine

import java.io.File
import java.io.IOException
import org.qwenedge.core.json.JsonException
import org.qwenedge.core.json.JsonReader
import org.qwenedge.core.json.JsonWriter

/** A chat as it survives the death of the process: which model, and what was said. */
data class Transcript(val model: String, val messages: List<Message>)

/** Where the current chat is kept. */
class TranscriptFile(private val place: File) {
    /** Replace what is kept; whoever reads sees the old or the new chat, never half of one. */
    fun save(transcript: Transcript) {
        val messages = transcript.messages.map { mapOf("role" to it.role, "content" to it.content) }
        val partial = place.resolveSibling("${place.name}.partial")
        partial.writeText(JsonWriter().write(mapOf("model" to transcript.model, "messages" to messages)))
        partial.renameTo(place)
    }

    /** The chat that was kept; null where there is none, or where it cannot be read. */
    fun read(): Transcript? = try {
        val kept = JsonReader(place.readText()).document() as Map<*, *>
        Transcript(kept["model"] as String, (kept["messages"] as List<*>).map { message(it as Map<*, *>) })
    } catch (_: IOException) {
        null
    } catch (_: JsonException) {
        null
    } catch (_: ClassCastException) {
        null
    } catch (_: NullPointerException) {
        null
    }

    private fun message(kept: Map<*, *>) = Message(kept["role"] as String, kept["content"] as String)
}
