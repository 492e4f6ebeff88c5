package org.qwenedge.core

import java.io.ByteArrayOutputStream
import kotlin.test.Test
import kotlin.test.assertEquals
import org.qwenedge.core.events.Event
import org.qwenedge.core.events.EventStream
import org.qwenedge.core.events.RunSettings
import org.qwenedge.core.events.StopReason
import org.qwenedge.core.events.caseMetrics

class EventStreamTest {
    private val streams = Golden.read("streams.json").objects("streams")

    @Test
    fun `the same events are the same bytes as in Python`() {
        for (stream in streams) {
            val out = ByteArrayOutputStream()
            EventStream(out).apply { stream.objects("events").map(::event).forEach(::write) }.end()
            assertEquals(stream.texts("lines").joinToString("") { "$it\n" }, out.toString(Charsets.UTF_8), stream.text("name"))
        }
    }

    @Test
    fun `the figures are those of Python`() {
        for (stream in streams) {
            for ((case, metrics) in stream.map("metrics")) {
                val found = caseMetrics(stream.objects("events").map(::event).filter { it !is Event.Start })
                for ((name, value) in metrics as Map<*, *>) {
                    assertEquals((value as Number?)?.toDouble(), found.getValue(name as String), "$case $name")
                }
            }
        }
    }

    private fun event(fields: Map<*, *>): Event {
        val at = fields["at_ns"] as Long
        return when (val name = fields.text("event")) {
            "stream" -> Event.Start(
                atNs = at,
                runner = fields.text("runner"),
                runtime = fields.text("runtime"),
                requested = settings(fields.map("requested")),
                effective = settings(fields.map("effective")),
            )
            "case_start" -> Event.CaseStart(at, fields.text("case"), fields.text("kind"))
            "case_end" -> Event.CaseEnd(at, fields.text("case"))
            "load_start" -> Event.LoadStart(at)
            "load_end" -> Event.LoadEnd(at)
            "submit" -> Event.Submit(at, fields.int("prompt_tokens"))
            "prefill_start" -> Event.PrefillStart(at, fields.int("position"), fields.int("tokens"))
            "prefill_end" -> Event.PrefillEnd(at, fields.int("position"), fields.int("tokens"))
            "token" -> Event.Token(at, fields.int("index"), fields.int("token"))
            "stop" -> Event.Stop(at, StopReason.entries.first { it.id == fields.text("reason") }, fields.int("tokens"))
            "sample" -> Event.Sample(at, fields.text("kind"), fields.text("source"), values(fields.map("values")))
            "marker" -> Event.Marker(at, fields.text("name"))
            "error" -> Event.Failure(at, fields.text("what"))
            else -> error("unknown event $name")
        }
    }

    private fun values(fields: Map<*, *>) = fields.entries.associate { (key, value) -> key as String to value as Number }

    private fun settings(fields: Map<*, *>) = RunSettings(
        backend = fields["backend"] as String?,
        threads = (fields["threads"] as Long?)?.toInt(),
        affinity = (fields["affinity"] as List<*>?)?.map { (it as Long).toInt() },
        details = fields.map("details").entries.associate { (key, value) -> key as String to value as String },
    )
}
