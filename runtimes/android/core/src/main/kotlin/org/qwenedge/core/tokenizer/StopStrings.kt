package org.qwenedge.core.tokenizer

/** Ends a stream of text at the first of some strings, and never gives out a part of one. */
class StopStrings(stops: List<String>) {
    private val stops = stops.filter { it.isNotEmpty() }
    private var held = ""

    /** Text that is certainly before any stop string, and whether one was reached. */
    class Step(val text: String, val reached: Boolean)

    fun push(text: String): Step {
        held += text
        val first = stops.map(held::indexOf).filter { it >= 0 }.minOrNull()
        val keep = if (first != null) held.length - first else stops.maxOfOrNull(::overlap) ?: 0
        val out = held.dropLast(keep)
        held = if (first != null) "" else held.takeLast(keep)
        return Step(out, reached = first != null)
    }

    /** What was held back because it might have become a stop string. */
    fun flush(): String = held.also { held = "" }

    /** How much of the held text's end is the start of a stop string. */
    private fun overlap(stop: String): Int =
        (minOf(stop.length - 1, held.length) downTo 1).firstOrNull { held.endsWith(stop.substring(0, it)) } ?: 0
}
