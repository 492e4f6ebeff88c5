package org.qwenedge.core.template

/** `{% for names in source if filter %}body{% else %}otherwise{% endfor %}`. */
internal class Loop(
    private val names: List<String>,
    private val source: Expression,
    private val filter: Expression?,
    private val body: Statement,
    private val otherwise: Statement,
) : Statement {
    override fun run(scope: Scope): Flow {
        val all = items(source.value(scope))
        val items = if (filter == null) all else all.filter { passes(filter, it, scope) }
        if (items.isEmpty()) return otherwise.run(scope)
        for (index in items.indices) {
            scope.step()
            val inner = scope.inner()
            assign(inner, names, items[index])
            inner["loop"] = facts(items, index)
            if (body.run(inner) == Flow.BREAK) break
        }
        return Flow.ON
    }

    private fun passes(filter: Expression, item: Any?, scope: Scope): Boolean {
        scope.step()
        val inner = scope.inner()
        assign(inner, names, item)
        return isTrue(filter.value(inner))
    }

    /** What a template may ask of `loop`. */
    private fun facts(items: List<Any?>, index: Int): Map<String, Any?> = buildMap {
        put("index", index + 1L)
        put("index0", index.toLong())
        put("revindex", (items.size - index).toLong())
        put("revindex0", items.size - index - 1L)
        put("first", index == 0)
        put("last", index == items.lastIndex)
        put("length", items.size.toLong())
        if (index > 0) put("previtem", items[index - 1])
        if (index < items.lastIndex) put("nextitem", items[index + 1])
    }
}
