package org.qwenedge.engine

import java.io.ByteArrayOutputStream
import java.io.File
import kotlin.io.path.createTempDirectory
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.qwenedge.core.CasesException
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.Artifact

class BenchmarkTest {
    private val root = createTempDirectory("benchmark").toFile()
    private val artifact = TestArtifact(root.resolve("artifact")).let { Artifact.open(it.directory) }
    private val counters = Counters { kind -> mapOf("/proc/self/$kind" to mapOf("VmRSS_kb" to 1234L)) }

    @Test
    fun `a stream tells of every case and is sealed`() {
        val lines = run(CASES)
        val events = lines.map { Regex("\"event\":\"([a-z_]+)\"").find(it)!!.groupValues[1] }
        assertEquals("stream", events.first())
        assertEquals("end", events.last())
        assertEquals(2, events.count { it == "case_end" })
        assertEquals(3, events.count { it == "submit" })
        assertEquals(2 * 4 + 6, events.count { it == "token" }, "warm-ups emit nothing")
        assertContains(lines.first(), "\"series\":\"app\"")
        System.getProperty("benchmark.stream")?.let { place -> File(place).writeText(lines.joinToString("") { "$it\n" }) }
    }

    @Test
    fun `an error ends the stream with its reason, sealed all the same`() {
        val lines = run(CASES) { throw EngineException("no such operator") }
        assertContains(lines[lines.size - 2], "\"event\":\"error\",\"what\":\"EngineException: no such operator\"")
        assertContains(lines.last(), "\"event\":\"end\"")
    }

    @Test
    fun `a file that holds no cases is refused`() {
        val faults = mapOf(
            "{" to "not JSON",
            "[]" to "wrong kind",
            """{"version":2,"cases":[]}""" to "version 2",
            """{"version":1,"cases":[]}""" to "measures nothing",
            """{"version":1,"cases":[{}]}""" to "missing",
        )
        for ((text, reason) in faults) {
            val place = root.resolve("bad.json").apply { writeText(text) }
            assertContains(assertFailsWith<CasesException> { readCases(place) }.message!!, reason)
        }
        assertFailsWith<CasesException> { readCases(root.resolve("nowhere.json")) }
    }

    private fun run(cases: String, engine: () -> Engine = { ScriptedEngine(listOf(5, 6), endToken = 2018) }): List<String> {
        val place = root.resolve("cases.json").apply { writeText(cases) }
        val out = ByteArrayOutputStream()
        val heard = ArrayList<String>()
        BenchmarkRunner(artifact, Engines(listOf(FakeFactory { engine() })), counters).run(readCases(place), out, heard::add)
        assertTrue(out.toString(Charsets.UTF_8).endsWith("\n"))
        return out.toString(Charsets.UTF_8).trimEnd('\n').lines().also { assertEquals(it, heard) }
    }

    private companion object {
        const val CASES = """
            {"version": 1, "threads": 2, "affinity": null, "cases": [
              {"case": "warm-p8", "kind": "warm", "prompt": [1, 2, 3, 4, 5, 6, 7, 8], "text": "a few words", "new_tokens": 4,
               "warm_ups": 1, "repeats": 2, "samples": []},
              {"case": "memory-p3", "kind": "warm", "prompt": [1, 2, 3], "text": null, "new_tokens": 6, "idle_ms": 20,
               "sample_interval_ms": 10, "samples": ["memory"]}
            ]}
        """
    }
}
