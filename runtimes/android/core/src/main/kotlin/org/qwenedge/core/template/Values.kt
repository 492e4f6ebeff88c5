package org.qwenedge.core.template

import org.qwenedge.core.json.shortestDecimal

/** A name or a field that does not exist: prints as nothing, is false, and can be used for nothing else. */
internal class Undefined(val name: String)

/** `namespace(...)`: the one thing whose fields a template may set. */
internal class Namespace(val fields: MutableMap<String, Any?>)

/** A function, a method of a value, or a macro. */
internal fun interface Callable {
    fun call(arguments: Arguments): Any?
}

/** What a call hands over. */
internal class Arguments(val positional: List<Any?>, val named: Map<String, Any?> = emptyMap()) {
    fun get(index: Int, name: String): Any? = positional.getOrElse(index) { named[name] }

    fun text(index: Int, name: String): String? = get(index, name)?.let(::asText)
}

/** Python's truth. */
internal fun isTrue(value: Any?): Boolean = when (value) {
    null, is Undefined, false -> false
    is String -> value.isNotEmpty()
    is Long -> value != 0L
    is Double -> value != 0.0
    is List<*> -> value.isNotEmpty()
    is Map<*, *> -> value.isNotEmpty()
    else -> true
}

/** What Python's `str` gives, and jinja2 prints. */
internal fun asText(value: Any?): String = when (value) {
    is String -> value
    is Undefined -> ""
    else -> representation(value)
}

/** What Python's `repr` gives: strings stand in quotes. */
private fun representation(value: Any?): String = when (value) {
    null -> "None"
    true -> "True"
    false -> "False"
    is String -> quoted(value)
    is Double -> shortestDecimal(value)
    is List<*> -> value.joinToString(", ", "[", "]") { representation(it) }
    is Map<*, *> -> value.entries.joinToString(", ", "{", "}") { (key, item) -> "${representation(key)}: ${representation(item)}" }
    is Undefined -> "Undefined"
    else -> value.toString()
}

private fun quoted(text: String): String {
    val quote = if ('\'' in text && '"' !in text) '"' else '\''
    val body = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t").replace("$quote", "\\$quote")
    return "$quote$body$quote"
}

/** Python's `==`: numbers are equal whatever their kind, and true is 1. */
internal fun isEqual(first: Any?, second: Any?): Boolean {
    val left = asNumber(first)
    val right = asNumber(second)
    return when {
        left != null && right != null -> left.toDouble() == right.toDouble()
        first is Undefined -> second is Undefined
        first is List<*> && second is List<*> -> first.size == second.size && first.indices.all { isEqual(first[it], second[it]) }
        first is Map<*, *> && second is Map<*, *> -> first.keys == second.keys && first.keys.all { isEqual(first[it], second[it]) }
        else -> first == second
    }
}

/** A number, or null where the value is none. */
internal fun asNumber(value: Any?): Number? = when (value) {
    is Boolean -> if (value) 1L else 0L
    is Number -> value
    else -> null
}

/** What a `for` goes over: items, keys, or characters. */
internal fun items(value: Any?): List<Any?> = when (value) {
    is List<*> -> value
    is Map<*, *> -> value.keys.toList()
    is String -> characters(value)
    is Undefined -> emptyList()
    else -> throw TemplateError("${asText(value)} has no items")
}

/** The characters of a text; Python counts code points. */
internal fun characters(text: String): List<String> {
    val found = ArrayList<String>(text.length)
    var at = 0
    while (at < text.length) {
        val length = Character.charCount(text.codePointAt(at))
        found += text.substring(at, at + length)
        at += length
    }
    return found
}

internal fun contains(container: Any?, item: Any?): Boolean = when (container) {
    is String -> asText(item) in container
    is Map<*, *> -> container.containsKey(item)
    else -> items(container).any { isEqual(it, item) }
}
