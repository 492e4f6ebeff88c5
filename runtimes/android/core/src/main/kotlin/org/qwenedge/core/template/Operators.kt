package org.qwenedge.core.template

import org.qwenedge.core.json.compareCodePoints

private const val MOST_CHARACTERS = 4_000_000
private const val MOST_ITEMS = 100_000

/** `first operator second`, with Python's meaning. */
internal fun calculate(operator: String, first: Any?, second: Any?): Any? = when (operator) {
    "==" -> isEqual(first, second)
    "!=" -> !isEqual(first, second)
    "<" -> compare(first, second) < 0
    "<=" -> compare(first, second) <= 0
    ">" -> compare(first, second) > 0
    ">=" -> compare(first, second) >= 0
    "in" -> contains(second, first)
    "not in" -> !contains(second, first)
    "~" -> joined(asText(first), asText(second))
    "+" -> add(first, second)
    "*" -> multiply(first, second)
    else -> arithmetic(operator, number(first), number(second))
}

internal fun negate(value: Any?): Any = number(value).let { if (it is Long) -it else -it.toDouble() }

private fun compare(first: Any?, second: Any?): Int =
    if (first is String && second is String) {
        compareCodePoints(first, second)
    } else {
        number(first).toDouble().compareTo(number(second).toDouble())
    }

private fun add(first: Any?, second: Any?): Any = when {
    first is String && second is String -> joined(first, second)
    first is List<*> && second is List<*> -> if (first.size + second.size > MOST_ITEMS) tooLong() else first + second
    else -> arithmetic("+", number(first), number(second))
}

private fun multiply(first: Any?, second: Any?): Any = when {
    first is String && second is Long -> first.repeat(times(second, first.length))
    first is Long && second is String -> second.repeat(times(first, second.length))
    else -> arithmetic("*", number(first), number(second))
}

private fun times(count: Long, length: Int): Int {
    if (count > MOST_CHARACTERS || count * length > MOST_CHARACTERS) tooLong()
    return count.coerceAtLeast(0).toInt()
}

private fun joined(first: String, second: String): String =
    if (first.length + second.length > MOST_CHARACTERS) tooLong() else first + second

private fun tooLong(): Nothing = throw TemplateError("a text or list without end")

private fun arithmetic(operator: String, first: Number, second: Number): Any {
    if (operator in DIVISIONS && second.toDouble() == 0.0) throw TemplateError("a division by zero")
    if (operator == "/") return first.toDouble() / second.toDouble()
    if (first is Long && second is Long) {
        return when (operator) {
            "+" -> first + second
            "-" -> first - second
            "*" -> first * second
            "//" -> Math.floorDiv(first, second)
            else -> Math.floorMod(first, second)
        }
    }
    val left = first.toDouble()
    val right = second.toDouble()
    return when (operator) {
        "+" -> left + right
        "-" -> left - right
        "*" -> left * right
        "//" -> Math.floor(left / right)
        else -> left - right * Math.floor(left / right)
    }
}

private val DIVISIONS = setOf("/", "//", "%")

private fun number(value: Any?): Number = asNumber(value) ?: throw TemplateError("'${asText(value)}' is no number")
