package org.qwenedge.core.json

import java.math.BigDecimal
import java.util.Locale
import kotlin.math.abs

/** Writes JSON as Python's `json.dumps(value, ensure_ascii=False)` does, so that texts and hashes agree with Python's. */
class JsonWriter(
    private val betweenItems: String = ", ",
    private val afterKey: String = ": ",
    private val indent: Int? = null,
    private val sortKeys: Boolean = false,
) {
    private val out = StringBuilder()
    private var depth = 0

    /** The text of one value. */
    fun write(value: Any?): String {
        out.clear()
        append(value)
        return out.toString()
    }

    private fun append(value: Any?) {
        when (value) {
            null -> out.append("null")
            is String -> appendString(value)
            is Boolean, is Long, is Int -> out.append(value)
            is Double -> out.append(shortestDecimal(value))
            is Map<*, *> -> appendAll('{', '}', sorted(value)) { (key, item) ->
                appendString(key as String)
                out.append(afterKey)
                append(item)
            }
            is List<*> -> appendAll('[', ']', value) { append(it) }
            else -> throw IllegalArgumentException("${value::class} has no place in JSON")
        }
    }

    private fun sorted(map: Map<*, *>): Collection<Map.Entry<*, *>> =
        if (sortKeys) map.entries.sortedWith { a, b -> compareCodePoints(a.key as String, b.key as String) } else map.entries

    private fun <T> appendAll(open: Char, close: Char, items: Collection<T>, append: (T) -> Unit) {
        out.append(open)
        depth++
        items.forEachIndexed { index, item ->
            if (index > 0) out.append(if (indent == null) betweenItems else ",")
            appendLineBreak()
            append(item)
        }
        depth--
        if (items.isNotEmpty()) appendLineBreak()
        out.append(close)
    }

    private fun appendLineBreak() {
        if (indent != null) out.append('\n').append(" ".repeat(indent * depth))
    }

    private fun appendString(text: String) {
        out.append('"')
        for (letter in text) {
            when (letter) {
                '"' -> out.append("\\\"")
                '\\' -> out.append("\\\\")
                '\n' -> out.append("\\n")
                '\r' -> out.append("\\r")
                '\t' -> out.append("\\t")
                '\b' -> out.append("\\b")
                '\u000c' -> out.append("\\f")
                in '\u0000'..'\u001f' -> out.append(String.format(Locale.ROOT, "\\u%04x", letter.code))
                else -> out.append(letter)
            }
        }
        out.append('"')
    }
}

/** Two texts in the order of their code points, as Python sorts; Kotlin's own order is that of UTF-16. */
internal fun compareCodePoints(first: String, second: String): Int {
    val shorter = minOf(first.length, second.length)
    val at = (0..<shorter).firstOrNull { first[it] != second[it] } ?: return first.length - second.length
    val start = if (at > 0 && first[at].isLowSurrogate() && second[at].isLowSurrogate()) at - 1 else at
    return first.codePointAt(start).compareTo(second.codePointAt(start))
}

/** The shortest decimal that reads back as the same number, spelt as Python's `repr` does. */
fun shortestDecimal(value: Double): String {
    if (value.isNaN()) return "nan"
    if (value.isInfinite()) return if (value > 0) "inf" else "-inf"
    if (value == Math.rint(value) && abs(value) < LARGEST_PLAIN) {
        return if (value.isNegativeZero()) "-0.0" else "${value.toLong()}.0"
    }
    val digits = (0..MOST_DIGITS).map { String.format(Locale.ROOT, "%.${it}e", value) }.first { it.toDouble() == value }
    val exponent = digits.substringAfter('e').toInt()
    if (exponent in SMALLEST_PLAIN_EXPONENT..LARGEST_PLAIN_EXPONENT) return BigDecimal(digits).toPlainString()
    val sign = if (exponent < 0) '-' else '+'
    return digits.substringBefore('e') + "e" + sign + abs(exponent).toString().padStart(2, '0')
}

private fun Double.isNegativeZero() = this == 0.0 && 1 / this < 0

private const val LARGEST_PLAIN = 1e16
private const val MOST_DIGITS = 16
private const val SMALLEST_PLAIN_EXPONENT = -4
private const val LARGEST_PLAIN_EXPONENT = 15
