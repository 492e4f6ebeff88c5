package org.qwenedge.core.template

/** The names that are visible at one place; what is set in a loop or a macro is not visible outside. */
internal class Scope(private val outer: Scope?, private val run: Run) {
    private val names = HashMap<String, Any?>()

    fun inner() = Scope(this, run)

    operator fun set(name: String, value: Any?) {
        names[name] = value
    }

    operator fun get(name: String): Any? {
        var scope: Scope? = this
        while (scope != null) {
            if (scope.names.containsKey(name)) return scope.names[name]
            scope = scope.outer
        }
        return Undefined(name)
    }

    fun write(text: String) = run.write(text)

    /** What [body] writes, as a text of its own. */
    fun captured(body: () -> Unit): String = run.captured(body)

    fun step() = run.step()
}

/** One rendering: its text, and the bounds that keep a hostile template from never ending. */
internal class Run {
    private var out = StringBuilder()
    private var steps = 0
    private var written = 0

    fun write(text: String) {
        written += text.length
        if (written > MOST_CHARACTERS) throw TemplateError("more than $MOST_CHARACTERS characters")
        out.append(text)
    }

    fun captured(body: () -> Unit): String {
        val outside = out
        out = StringBuilder()
        try {
            body()
            return out.toString()
        } finally {
            out = outside
        }
    }

    fun step() {
        if (++steps > MOST_STEPS) throw TemplateError("more than $MOST_STEPS steps")
    }

    fun text() = out.toString()

    private companion object {
        const val MOST_CHARACTERS = 8_000_000
        const val MOST_STEPS = 2_000_000
    }
}
