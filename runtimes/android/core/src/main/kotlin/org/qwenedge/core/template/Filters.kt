package org.qwenedge.core.template

import java.util.Locale
import org.qwenedge.core.json.JsonWriter

/** `value | name(arguments)`. */
internal fun filter(name: String, value: Any?, given: Arguments): Any? = when (name) {
    "trim" -> strip(asText(value), given.text(0, "chars"))
    "tojson" -> toJson(value, given.get(0, "indent"))
    "length", "count" -> length(value)
    "string" -> asText(value)
    "safe" -> value
    "list" -> items(value)
    "items" -> entries(value as? Map<*, *> ?: throw TemplateError("'items' of what is no mapping"))
    "first" -> items(value).firstOrNull() ?: Undefined("first")
    "last" -> items(value).lastOrNull() ?: Undefined("last")
    "reverse" -> if (value is String) characters(value).reversed().joinToString("") else items(value).reversed()
    "join" -> items(value).joinToString(given.text(0, "d").orEmpty()) { asText(it) }
    "default", "d" -> default(value, given)
    "replace" -> asText(value).replace(asText(given.positional[0]), asText(given.positional[1]))
    "upper" -> asText(value).uppercase(Locale.ROOT)
    "lower" -> asText(value).lowercase(Locale.ROOT)
    "capitalize" -> asText(value).lowercase(Locale.ROOT).replaceFirstChar { it.uppercase(Locale.ROOT) }
    "int" -> asNumber(value)?.toLong() ?: asText(value).trim().toLongOrNull() ?: 0L
    "float" -> asNumber(value)?.toDouble() ?: asText(value).trim().toDoubleOrNull() ?: 0.0
    "map" -> map(value, given)
    "select" -> items(value).filter { passes(given, 0, it) }
    "reject" -> items(value).filterNot { passes(given, 0, it) }
    "selectattr" -> items(value).filter { passes(given, 1, attribute(it, asText(given.positional[0]))) }
    "rejectattr" -> items(value).filterNot { passes(given, 1, attribute(it, asText(given.positional[0]))) }
    else -> throw TemplateError("no filter named '$name'")
}

/** `value is name(argument)`. */
internal fun test(name: String, value: Any?, argument: Any?): Boolean = when (name) {
    "defined" -> value !is Undefined
    "undefined" -> value is Undefined
    "none" -> value == null
    "true" -> value == true
    "false" -> value == false
    "boolean" -> value is Boolean
    "string" -> value is String
    "number" -> asNumber(value) != null
    "integer" -> value is Long
    "float" -> value is Double
    "mapping" -> value is Map<*, *>
    "sequence" -> value is String || value is List<*> || value is Map<*, *>
    "iterable" -> value is String || value is List<*> || value is Map<*, *> || value is Undefined
    "odd" -> calculate("%", value, 2L) == 1L
    "even" -> calculate("%", value, 2L) == 0L
    "equalto", "eq" -> isEqual(value, argument)
    "ne" -> !isEqual(value, argument)
    "in" -> contains(argument, value)
    else -> throw TemplateError("no test named '$name'")
}

private fun passes(given: Arguments, at: Int, value: Any?): Boolean {
    if (given.positional.size <= at) return isTrue(value)
    return test(asText(given.positional[at]), value, given.positional.getOrNull(at + 1))
}

private fun map(value: Any?, given: Arguments): List<Any?> {
    val name = given.named["attribute"]
        ?: return items(value).map { filter(asText(given.positional[0]), it, Arguments(emptyList())) }
    return items(value).map { attribute(it, asText(name)) }
}

private fun default(value: Any?, given: Arguments): Any? {
    val missing = value is Undefined || (isTrue(given.get(1, "boolean")) && !isTrue(value))
    return if (missing) given.get(0, "default_value") ?: "" else value
}

private fun length(value: Any?): Long = when (value) {
    is Undefined -> 0L
    is String, is List<*>, is Map<*, *> -> items(value).size.toLong()
    else -> throw TemplateError("${asText(value)} has no length")
}

private fun toJson(value: Any?, indent: Any?): String = try {
    JsonWriter(indent = (indent as? Long)?.toInt()).write(value)
} catch (error: IllegalArgumentException) {
    throw TemplateError("'tojson' of what is no JSON: ${error.message}")
}
