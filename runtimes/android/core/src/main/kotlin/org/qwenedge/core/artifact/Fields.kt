package org.qwenedge.core.artifact

import org.qwenedge.core.ManifestException

/** Ends the reading of a file at a place in it, with the problem there. */
internal fun interface Refusal {
    fun refuse(place: String, problem: String): Nothing
}

/** One JSON object from outside, read field by field; [path] names it in errors, such as `files.0`. */
internal class Fields(private val path: String, value: Any?, private val refusal: Refusal = Refusal(::refuse)) {
    private val values: Map<*, *> = value as? Map<*, *> ?: refusal.refuse(path, "expected an object, found ${shown(value)}")
    private val seen = HashSet<String>()

    /** The value of a field that has to be there. */
    fun value(name: String): Any? {
        if (name !in values) refusal.refuse(place(name), "'$name' is missing")
        return optional(name)
    }

    fun has(name: String): Boolean = name in values

    /** The value of a field, null where it is missing. */
    fun optional(name: String): Any? {
        seen += name
        return values[name]
    }

    fun text(name: String, form: Regex): String {
        val found = value(name)
        return (found as? String)?.takeIf(form::matches)
            ?: refusal.refuse(place(name), "${shown(found)} is not of the form $form")
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
            ?: refusal.refuse(place, "${shown(value)} is no number above $above")
    }

    fun number(name: String, above: Double, below: Double): Double {
        val found = value(name)
        return (found as? Number)?.toDouble()?.takeIf { it > above && it < below }
            ?: refusal.refuse(place(name), "${shown(found)} is no number between $above and $below")
    }

    /** Lists of two. */
    fun pairs(name: String, range: LongRange, count: IntRange): List<List<Long>> =
        items(name, count) { value, place ->
            val pair = value as? List<*> ?: refusal.refuse(place, "expected a list")
            if (pair.size != 2) refusal.refuse(place, "${pair.size} entries, expected 2")
            pair.map { integer(it, place, range) }
        }

    fun choices(name: String, known: Set<String>, count: IntRange): List<String> =
        items(name, count) { value, place -> choice(value, place, known) }

    fun fields(name: String): Fields = Fields(place(name), value(name), refusal)

    fun <T> objects(name: String, count: IntRange, read: (Fields) -> T): List<T> =
        items(name, count) { value, place -> Fields(place, value, refusal).run { read(this).also { done() } } }

    /** Every field was read; a new field means a new version of the schema. */
    fun done() {
        val unknown = values.keys.firstOrNull { it !in seen } ?: return
        refusal.refuse(place("$unknown"), "no such field")
    }

    private fun <T> items(name: String, count: IntRange, read: (Any?, String) -> T): List<T> {
        val found = value(name) as? List<*> ?: refusal.refuse(place(name), "expected a list")
        if (found.size !in count) refusal.refuse(place(name), "${found.size} entries; there may be $count")
        return found.mapIndexed { index, item -> read(item, "${place(name)}.$index") }
    }

    private fun choice(value: Any?, place: String, known: Set<String>): String =
        (value as? String)?.takeIf(known::contains) ?: refusal.refuse(place, "${shown(value)} is none of $known")

    private fun integer(value: Any?, place: String, range: LongRange): Long =
        (value as? Long)?.takeIf(range::contains) ?: refusal.refuse(place, "${shown(value)} is no whole number in $range")

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
