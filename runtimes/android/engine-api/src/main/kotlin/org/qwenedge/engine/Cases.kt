package org.qwenedge.engine

import java.io.File
import java.io.IOException
import org.qwenedge.core.CasesException
import org.qwenedge.core.json.JsonException
import org.qwenedge.core.json.JsonReader

/** One thing to measure: a load and the generations after it; `benchmarks/cases.py` defines the fields. */
class Case(
    val name: String,
    val kind: String,
    val prompt: List<Int>,
    val text: String?,
    val newTokens: Int,
    val warmUps: Int,
    val repeats: Int,
    val durationMs: Long?,
    val idleMs: Long?,
    val sampleIntervalMs: Long?,
    val samples: List<String>,
)

/** The cases of one process. */
class CaseFile(val threads: Int?, val cases: List<Case>)

private const val MAX_BYTES = 16L * 1024 * 1024
private const val VERSION = 1L
private val KINDS = setOf("cold", "warm", "sustained")

/** Read `cases.json`, as the device lab writes it. */
fun readCases(place: File): CaseFile {
    if (place.length() > MAX_BYTES) {
        throw CasesException("$place: ${place.length()} bytes; a file of cases has at most $MAX_BYTES")
    }
    try {
        val file = place.inputStream().use { JsonReader(it).document() } as Map<*, *>
        if (file["version"] != VERSION) {
            throw CasesException("$place: version ${file["version"]}; this app reads $VERSION, update one of them")
        }
        val cases = (file["cases"] as List<*>).map { case(it as Map<*, *>) }
        if (cases.isEmpty() || cases.any { it.kind !in KINDS || it.prompt.isEmpty() || it.newTokens < 1 || it.repeats < 1 }) {
            throw CasesException("$place: a case that measures nothing; write it with `python -m benchmarks run`")
        }
        return CaseFile(threads = whole(file["threads"]), cases)
    } catch (error: IOException) {
        throw CasesException("$place: cannot be read: ${error.message}; push it again")
    } catch (error: JsonException) {
        throw CasesException("$place: not JSON: ${error.message}; push it again")
    } catch (error: ClassCastException) {
        throw CasesException("$place: a value of the wrong kind: ${error.message}; see benchmarks/cases.py")
    } catch (_: NullPointerException) {
        throw CasesException("$place: a field is missing; see benchmarks/cases.py")
    }
}

private fun case(fields: Map<*, *>) = Case(
    name = fields["case"] as String,
    kind = fields["kind"] as String,
    prompt = (fields["prompt"] as List<*>).map { (it as Long).toInt() },
    text = fields["text"] as String?,
    newTokens = whole(fields["new_tokens"])!!,
    warmUps = whole(fields["warm_ups"]) ?: 0,
    repeats = whole(fields["repeats"]) ?: 1,
    durationMs = fields["duration_ms"] as Long?,
    idleMs = fields["idle_ms"] as Long?,
    sampleIntervalMs = fields["sample_interval_ms"] as Long?,
    samples = (fields["samples"] as List<*>?).orEmpty().map { it as String },
)

private fun whole(value: Any?): Int? = (value as Long?)?.toInt()
