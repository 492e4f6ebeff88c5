package org.qwenedge.core

import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import org.qwenedge.core.artifact.readManifest
import org.qwenedge.core.json.JsonWriter
import org.qwenedge.core.oracle.Oracle
import org.qwenedge.core.oracle.compare
import org.qwenedge.core.oracle.readOracle

class OracleTest {
    private val golden = Golden.read("oracle.json")
    private val manifest = readManifest(Golden.file("manifest.json").readBytes())

    @Test
    fun `answers are judged as in Python`() {
        for (entry in golden.objects("oracles")) {
            val oracle = assertNotNull(readOracle(bytes(entry), manifest))
            for (answer in golden.objects("answers")) {
                val name = answer.text("name")
                val report = oracle.compare(logits(answer, oracle))
                assertEquals(answer["relative_max_error"] as Double, report.relativeMaxError, absoluteTolerance = 1e-9, name)
                assertEquals((answer["mean_kld"] as Number).toDouble(), report.meanDivergence, absoluteTolerance = 1e-9, name)
                assertEquals(entry.text("kind") in answer.texts("refused_by"), report.problem != null, "$name: ${report.problem}")
            }
        }
    }

    @Test
    fun `answers that are no numbers are refused, and none at all`() {
        val oracle = quantized()
        val nothing = oracle.expected.associate { it.position to FloatArray(306) { Float.NaN } }
        assertContains(assertNotNull(oracle.compare(nothing).problem), "finite")
        assertNotNull(oracle.compare(emptyMap()).problem)
    }

    @Test
    fun `an oracle of other artifacts is none`() {
        val text = Golden.file("manifest.json").readText().replace("\"threads\": 1", "\"threads\": 2")
        assertNull(readOracle(bytes(golden.objects("oracles").last()), readManifest(text.toByteArray())))
    }

    @Test
    fun `an oracle that is none is refused by name`() {
        val text = String(bytes(golden.objects("oracles").last()))
        val changes = listOf(
            "\"format\": 1" to "\"format\": 2", "\"mean_kld\"" to "\"guess\"", "\"value\": 0.001" to "\"value\": 7",
            "\"prefill_tokens\": 8" to "\"prefill_tokens\": 80", "{" to "[",
        )
        for ((old, new) in changes) {
            val error = assertFailsWith<OracleException>(new) { readOracle(text.replace(old, new).toByteArray(), manifest) }
            assertContains(error.message!!, Oracle.FILE_NAME)
        }
    }

    private fun quantized() = assertNotNull(readOracle(bytes(golden.objects("oracles").last()), manifest))

    private fun bytes(entry: Map<*, *>) = JsonWriter().write(entry.map("file")).toByteArray()

    private fun logits(answer: Map<*, *>, oracle: Oracle): Map<Int, FloatArray> {
        val rows = (answer["logits"] as List<*>).map { row -> (row as List<*>).map { (it as Number).toFloat() }.toFloatArray() }
        return oracle.expected.map { it.position }.zip(rows).toMap()
    }
}
