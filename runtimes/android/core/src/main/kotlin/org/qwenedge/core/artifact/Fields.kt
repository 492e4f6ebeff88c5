package org.qwenedge.core.artifact

import org.qwenedge.core.ManifestException

/** One JSON object of a manifest, read field by field; [path] names it in errors, such as `files.0`. */
internal class Fields(private val path: String, value: Any?) {
    private val values: Map<*, *> = value as? Map<*, *> ?: refuse(path, "expected an object, found ${shown(value)}")
    private val seen = HashSet<String>()

    /** The value of a field that has to be there. */
    fun value(name: String): Any? {
        if (name !in values) refuse(place(name), "'$name' is missing")
        return optional(name)
    }

    /** The value of a field, null where it is missing. */
    fun optional(name: String): Any? {
        seen += name
        return values[name]
    }

    fun text(name: String, form: Regex): String {
        val found = value(name)
        return (found as? String)?.takeIf(form::matches)
            ?: refuse(place(name), "${shown(found)} is not of the form $form")
    }

    fun textOrNull(name: String, form: Regex): String? = if (value(name) == null) null else text(name, form)

    fun choice(name: String, known: Set<String>): String = choice(value(name), place(name), known)

    fun integer(name: String, range: LongRange): Long = integer(value(name), place(name), range)

    fun integerOrNull(name: String, range: LongRange): Long? = if (value(name) == null) null else integer(name, range)

    fun integers(name: String, range: LongRange, count: IntRange): List<Long> =
        items(name, count) { value, place -> integer(value, place, range) }

    fun numbers(name: String, above: Double, most: Double, count: IntRange): List<Double> =
        items(name, count) { value, place ->
        (value as? Number)?.toDouble()?.takeIf { it > above && it <= most }
            ?: refuse(place, "${shown(value)} is no number above $above")
    }

    fun choices(name: String, known: Set<String>, count: IntRange): List<String> =
        items(name, count) { value, place -> choice(value, place, known) }

    fun fields(name: String): Fields = Fields(place(name), value(name))

    fun <T> objects(name: String, count: IntRange, read: (Fields) -> T): List<T> =
        items(name, count) { value, place -> Fields(place, value).run { read(this).also { done() } } }

    /** Every field was read; a new field means a new version of the schema. */
    fun done() {
        val unknown = values.keys.firstOrNull { it !in seen } ?: return
        refuse(place("$unknown"), "no such field")
    }

    private fun <T> items(name: String, count: IntRange, read: (Any?, String) -> T): List<T> {
        val found = value(name) as? List<*> ?: refuse(place(name), "expected a list")
        if (found.size !in count) refuse(place(name), "${found.size} entries; there may be $count")
        return found.mapIndexed { index, item -> read(item, "${place(name)}.$index") }
    }

    private fun choice(value: Any?, place: String, known: Set<String>): String =
        (value as? String)?.takeIf(known::contains) ?: refuse(place, "${shown(value)} is none of $known")

    private fun integer(value: Any?, place: String, range: LongRange): Long =
        (value as? Long)?.takeIf(range::contains) ?: refuse(place, "${shown(value)} is no whole number in $range")

    private fun place(name: String) = if (path.isEmpty()) name else "$path.$name"
}

internal fun refuse(place: String, problem: String): Nothing {
    val where = if (place.isEmpty()) Manifest.FILE_NAME else "${Manifest.FILE_NAME}: $place"
    throw ManifestException("$where: $problem; copy the artifact or export it again")
}

private const val SHOWN_CHARACTERS = 80

private fun shown(value: Any?): String = when (value) {
    is String -> "'${value.take(SHOWN_CHARACTERS)}'"
    is Map<*, *> -> "an object"
    is List<*> -> "a list"
    else -> "$value"
}
