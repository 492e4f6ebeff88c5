package org.qwenedge.core.events

import java.io.Closeable
import java.io.OutputStream
import java.security.MessageDigest
import org.qwenedge.core.artifact.hex
import org.qwenedge.core.json.JsonWriter

/**
 * Writes the device lab's event stream (`benchmarks/stream_events.py`): one JSON object a line, and a last line that
 * counts the others and holds their SHA-256. A stream without it is never taken for a result.
 */
class EventStream(private val out: OutputStream, private val onLine: (String) -> Unit = {}) : Closeable {
    private val json = JsonWriter(betweenItems = ",", afterKey = ":")
    private val hash = MessageDigest.getInstance("SHA-256")
    private var lines = 0

    /** Write one event. */
    fun write(event: Event) {
        val line = json.write(fields(event)) + "\n"
        hash.update(line.toByteArray())
        lines++
        put(line)
    }

    /** Seal the stream; nothing may follow. */
    fun end() {
        put(json.write(mapOf("event" to "end", "lines" to lines, "sha256" to hex(hash.digest()))) + "\n")
        out.flush()
    }

    override fun close() = out.close()

    private fun put(line: String) {
        out.write(line.toByteArray())
        onLine(line.trimEnd('\n'))
    }

    private fun fields(event: Event): Map<String, Any?> = mapOf("at_ns" to event.atNs) + when (event) {
        is Event.LoadStart -> mapOf("event" to "load_start")
        is Event.LoadEnd -> mapOf("event" to "load_end")
        is Event.Submit -> mapOf("event" to "submit", "prompt_tokens" to event.promptTokens)
        is Event.PrefillStart ->
            mapOf("event" to "prefill_start", "position" to event.position, "tokens" to event.tokens)
        is Event.PrefillEnd -> mapOf("event" to "prefill_end", "position" to event.position, "tokens" to event.tokens)
        is Event.Token -> mapOf("event" to "token", "index" to event.index, "token" to event.token)
        is Event.Stop -> mapOf("event" to "stop", "reason" to event.reason.id, "tokens" to event.tokens)
        is Event.Start -> start(event)
        is Event.CaseStart -> mapOf("event" to "case_start", "case" to event.case, "kind" to event.kind)
        is Event.CaseEnd -> mapOf("event" to "case_end", "case" to event.case)
        is Event.Sample ->
            mapOf("event" to "sample", "kind" to event.kind, "source" to event.source, "values" to event.values)
        is Event.Marker -> mapOf("event" to "marker", "name" to event.name)
        is Event.Failure -> mapOf("event" to "error", "what" to event.what)
    }

    private fun start(event: Event.Start) = mapOf(
        "event" to "stream",
        "version" to VERSION,
        "runner" to event.runner,
        "runtime" to event.runtime,
        "series" to "app",
        "clock" to "monotonic",
        "requested" to settings(event.requested),
        "effective" to settings(event.effective),
    )

    private fun settings(settings: RunSettings) = mapOf(
        "backend" to settings.backend,
        "threads" to settings.threads,
        "affinity" to settings.affinity,
        "details" to settings.details,
    )

    private companion object {
        const val VERSION = 1
    }
}
