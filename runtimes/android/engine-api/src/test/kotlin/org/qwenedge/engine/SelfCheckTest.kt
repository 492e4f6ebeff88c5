package org.qwenedge.engine

import java.io.RandomAccessFile
import kotlin.math.exp
import kotlin.math.ln
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.json.JsonWriter
import org.qwenedge.core.oracle.Oracle

/** A model is asked the oracle of its bundle before it is trusted, once. */
class SelfCheckTest {
    private val opened = ArrayList<AnsweringEngine>()
    private var error = 0f
    private var version = "1.31.1"
    private val phone = Phone { FakeFactory(version = version) { AnsweringEngine(error).also(opened::add) } }

    @Test
    fun `a model that answers right is asked once, and ready`() {
        val entry = phone.push().also(::giveOracle)
        phone.session.choose(entry)
        assertEquals(Phase.READY, phone.view.phase)
        assertNull(phone.view.notice)
        assertEquals(listOf(listOf(1, 2, 3, 4), listOf(5), listOf(6)), opened.single().calls)
        assertEquals(0, opened.single().position)
        phone.session.choose(entry)
        assertTrue(opened.last().calls.isEmpty(), "asked a second time")
    }

    @Test
    fun `a model that answers wrong is closed with the reason, and not opened again until something changes`() {
        error = 8f
        val entry = phone.push().also(::giveOracle)
        phone.session.choose(entry)
        assertContains(phone.view.notice!!, "gives wrong answers on this device (the mean divergence is")
        assertEquals(Phase.ASLEEP, phone.view.phase)
        assertTrue(opened.single().closed)
        phone.session.say("Hello?")
        assertContains(phone.view.notice!!, "gives wrong answers on this device")
        assertEquals(1, opened.size, "the weights were read again")
        error = 0f
        phone.system = "15"
        phone.start()
        phone.session.choose(entry)
        assertEquals(Phase.READY, phone.view.phase)
        version = "1.32.0"
        phone.session.choose(entry)
        assertEquals(3, opened.last().calls.size, "another runtime is asked again")
    }

    @Test
    fun `another version of the app asks again, and may judge otherwise`() {
        error = 8f
        val entry = phone.push().also(::giveOracle)
        phone.session.choose(entry)
        phone.start()
        phone.session.choose(entry)
        assertContains(phone.view.notice!!, "gives wrong answers on this device")
        assertEquals(1, opened.size, "the weights were read again")
        error = 0f
        phone.app = "2"
        phone.start()
        phone.session.choose(entry)
        assertEquals(Phase.READY, phone.view.phase)
        assertEquals(3, opened.last().calls.size)
    }

    @Test
    fun `a note that is empty, half written or no file says nothing, and the model is asked again`() {
        val entry = phone.push().also(::giveOracle)
        phone.session.choose(entry)
        val note = phone.verdicts.listFiles()!!.single()
        assertEquals("right", note.readText())
        val damages = listOf<() -> Unit>(
            { note.writeText("") },
            { note.delete() && note.resolveSibling("${note.name}.partial").run { writeText("ri"); isFile } },
            { note.delete() && note.mkdirs() },
        )
        for ((number, damage) in damages.withIndex()) {
            damage()
            phone.session.choose(entry)
            assertNull(phone.view.notice, "$number")
            assertEquals(Phase.READY, phone.view.phase)
            assertEquals(3, opened.last().calls.size, "$number: not asked")
        }
    }

    @Test
    fun `another model can be used after one that answers wrong`() {
        error = 8f
        phone.session.choose(phone.push("first").also(::giveOracle))
        error = 0f
        phone.session.choose(phone.push("second") { change("scheme", "int8") })
        assertEquals(Phase.READY, phone.view.phase)
        assertNull(phone.view.notice)
    }

    @Test
    fun `kernels that round otherwise are no fault, numbers that are none are one`() {
        error = 0.15f
        phone.session.choose(phone.push("first").also(::giveOracle))
        assertEquals(Phase.READY, phone.view.phase)
        error = Float.NaN
        phone.session.choose(phone.push("second") { change("scheme", "int8") }.also(::giveOracle))
        assertContains(phone.view.notice!!, "no finite numbers")
    }

    @Test
    fun `an oracle that is damaged is a notice that names the file`() {
        val entry = phone.push().also(::giveOracle)
        entry.directory.resolve("oracle.json").writeText("{\"format\": 1")
        phone.session.choose(entry)
        assertContains(phone.view.notice!!, "oracle.json: not JSON")
        assertTrue(opened.single().closed)
        RandomAccessFile(entry.directory.resolve("oracle.json"), "rw").use { it.setLength(Oracle.MAX_BYTES + 1L) }
        phone.session.choose(entry)
        assertContains(phone.view.notice!!, "oracle.json: more than the ${Oracle.MAX_BYTES} bytes it may have")
    }

    @Test
    fun `an oracle of other artifacts, or none, asks nothing`() {
        phone.session.choose(phone.push())
        assertTrue(opened.single().calls.isEmpty())
        val other = phone.push("other").also(::giveOracle)
        TestArtifact(phone.pushed.resolve("third")).change("scheme", "int8")
        other.directory.resolve("oracle.json").copyTo(phone.pushed.resolve("third/oracle.json"))
        phone.session.choose(phone.store.list().single { it.name == "third" })
        assertTrue(opened.last().calls.isEmpty())
        assertEquals(Phase.READY, phone.view.phase)
    }

    /** What an export would have recorded of [AnsweringEngine] without its error. */
    private fun giveOracle(entry: org.qwenedge.core.artifact.Installed) {
        val artifact = Artifact.open(entry.directory)
        val positions = (3..5).map { position ->
            val logits = answer(position + 1)
            val best = logits.indices.sortedByDescending { logits[it] }.take(16)
            mapOf(
                "position" to position,
                "ids" to best,
                "logits" to best.map { logits[it].toDouble() },
                "log_sum" to ln(logits.sumOf { exp(it.toDouble()) }),
            )
        }
        val recorded = mapOf(
            "artifact" to artifact.manifest.sha256,
            "tolerance" to mapOf("kind" to "mean_kld", "value" to 1e-3),
            "tokens" to (1..6).toList(),
            "prefill_tokens" to 4,
            "positions" to positions,
        )
        val oracle = mapOf("format" to 1, "artifacts" to mapOf("onnx" to recorded))
        entry.directory.resolve("oracle.json").writeText(JsonWriter().write(oracle))
    }

    private class AnsweringEngine(private val error: Float) : FakeEngine(contextLength = 256, vocabSize = 2048, prefillChunk = 32) {
        val calls = ArrayList<List<Int>>()

        override fun answer(tokens: IntArray): FloatArray {
            calls += tokens.toList()
            return answer(position + tokens.size).also { logits ->
                for (at in logits.indices) logits[at] += if (at % 2 == 0) error else -error
            }
        }
    }

    private companion object {
        /** The logits after so many tokens. */
        fun answer(count: Int) = FloatArray(2048) { id -> if (id % 97 == count) 9f - id / 97 * 0.3f else -4f }
    }
}
