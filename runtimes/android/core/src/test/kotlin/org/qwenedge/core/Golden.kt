package org.qwenedge.core

import java.io.File
import org.qwenedge.core.json.JsonReader
import org.qwenedge.core.sampling.Sampling

/** The golden vectors, which Python writes and Swift reads as well: see `tests/golden/README.md`. */
object Golden {
    val repository: File = generateSequence(File("").absoluteFile) { it.parentFile }
        .first { it.resolve("tests/golden/README.md").isFile }

    fun file(name: String): File = repository.resolve("tests/golden").resolve(name)

    fun read(name: String): Map<*, *> = file(name).inputStream().use { JsonReader(it).document() } as Map<*, *>
}

fun Map<*, *>.objects(name: String): List<Map<*, *>> = (getValue(name) as List<*>).map { it as Map<*, *> }

fun Map<*, *>.map(name: String): Map<*, *> = getValue(name) as Map<*, *>

fun Map<*, *>.text(name: String): String = getValue(name) as String

fun Map<*, *>.texts(name: String): List<String> = (getValue(name) as List<*>).map { it as String }

fun Map<*, *>.ints(name: String): List<Int> = (getValue(name) as List<*>).map { (it as Long).toInt() }

fun Map<*, *>.int(name: String): Int = (getValue(name) as Long).toInt()

fun Map<*, *>.doubles(name: String): List<Double> = (getValue(name) as List<*>).map { (it as Number).toDouble() }

private fun Map<*, *>.getValue(name: String): Any = checkNotNull(this[name]) { "no field '$name'" }

/** The settings of a golden case. */
fun samplingOf(given: Map<*, *>) = Sampling(
    temperature = number(given, "temperature") ?: 0.0,
    topK = number(given, "top_k")?.toInt() ?: 0,
    topP = number(given, "top_p") ?: 1.0,
    minP = number(given, "min_p") ?: 0.0,
    repetitionPenalty = number(given, "repetition_penalty") ?: 1.0,
    seed = given["seed"] as Long?,
)

private fun number(given: Map<*, *>, name: String) = (given[name] as Number?)?.toDouble()
