package org.qwenedge.core.template

/** `value.name`: a method before a field, as in Python. */
internal fun attribute(value: Any?, name: String): Any? {
    if (value is Undefined) throw TemplateError("'${value.name}' is undefined, so it has no '$name'")
    if (name.startsWith("__")) throw TemplateError("'$name' is not for templates")
    return method(value, name) ?: field(value, name)
}

/** `value[key]`. */
internal fun item(value: Any?, key: Any?): Any? = when {
    value is Undefined -> throw TemplateError("'${value.name}' is undefined, so it has no items")
    value is String && key is Long -> characters(value).let { element(it, key) }
    value is List<*> && key is Long -> element(value, key)
    key is String -> field(value, key)
    value is Map<*, *> -> if (value.containsKey(key)) value[key] else Undefined(asText(key))
    else -> Undefined(asText(key))
}

/** `value[start:stop:step]`. */
internal fun slice(value: Any?, start: Any?, stop: Any?, step: Any?): Any {
    val items = if (value is String) characters(value) else items(value)
    val stride = (step ?: 1L) as? Long ?: throw TemplateError("a slice takes whole numbers")
    if (stride == 0L) throw TemplateError("a slice cannot have the step 0")
    val size = items.size.toLong()
    val forward = stride > 0
    val low = if (forward) 0L else -1L
    val high = if (forward) size else size - 1
    val from = bound(start, size, low, high) ?: if (forward) low else high
    val to = bound(stop, size, low, high) ?: if (forward) high else low
    val picked = ArrayList<Any?>()
    var at = from
    while (if (forward) at < to else at > to) {
        picked += items[at.toInt()]
        at += stride
    }
    return if (value is String) picked.joinToString("") else picked
}

private fun bound(value: Any?, size: Long, low: Long, high: Long): Long? {
    if (value == null) return null
    val index = value as? Long ?: throw TemplateError("a slice takes whole numbers")
    return (if (index < 0) index + size else index).coerceIn(low, high)
}

private fun element(items: List<Any?>, index: Long): Any? {
    val place = if (index < 0) index + items.size else index
    return if (place in items.indices) items[place.toInt()] else Undefined("item $index")
}

private fun field(value: Any?, name: String): Any? = when {
    value is Map<*, *> && value.containsKey(name) -> value[name]
    value is Namespace && value.fields.containsKey(name) -> value.fields[name]
    else -> Undefined(name)
}

private fun method(value: Any?, name: String): Callable? = when (value) {
    is String -> textMethod(value, name)
    is Map<*, *> -> mapMethod(value, name)
    else -> null
}

private fun mapMethod(map: Map<*, *>, name: String): Callable? = when (name) {
    "items" -> Callable { entries(map) }
    "keys" -> Callable { map.keys.toList() }
    "values" -> Callable { map.values.toList() }
    "get" -> Callable { given -> given.positional.first().let { if (map.containsKey(it)) map[it] else given.get(1, "default") } }
    else -> null
}

/** The pairs of a map. */
internal fun entries(map: Map<*, *>): List<List<Any?>> = map.entries.map { (key, value) -> listOf(key, value) }

private fun textMethod(text: String, name: String): Callable? = when (name) {
    "strip" -> Callable { given -> strip(text, given.text(0, "chars")) }
    "lstrip" -> Callable { given -> text.trimStart(strippedBy(given.text(0, "chars"))) }
    "rstrip" -> Callable { given -> text.trimEnd(strippedBy(given.text(0, "chars"))) }
    "split" -> Callable { given -> split(text, given.text(0, "sep"), given.get(1, "maxsplit") as Long? ?: -1L) }
    "startswith" -> Callable { given -> text.startsWith(asText(given.positional.first())) }
    "endswith" -> Callable { given -> text.endsWith(asText(given.positional.first())) }
    "replace" -> Callable { given -> text.replace(asText(given.positional[0]), asText(given.positional[1])) }
    "upper" -> Callable { text.uppercase(java.util.Locale.ROOT) }
    "lower" -> Callable { text.lowercase(java.util.Locale.ROOT) }
    "join" -> Callable { given -> items(given.positional.first()).joinToString(text) { asText(it) } }
    else -> null
}

internal fun strip(text: String, letters: String?): String = text.trim(strippedBy(letters))

private fun strippedBy(letters: String?): (Char) -> Boolean = if (letters == null) ::isSpace else letters::contains

private fun split(text: String, separator: String?, most: Long): List<String> {
    if (separator == "") throw TemplateError("an empty separator")
    if (separator == null) return text.split(*SPACES).filter { it.isNotEmpty() }
    return text.split(separator, limit = if (most < 0) 0 else most.toInt() + 1)
}

private val SPACES = (Char.MIN_VALUE..Char.MAX_VALUE).filter(::isSpace).map(Char::toString).toTypedArray()
