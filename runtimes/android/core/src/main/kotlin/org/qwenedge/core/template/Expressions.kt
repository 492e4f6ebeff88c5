package org.qwenedge.core.template

/** A piece of a template that has a value. */
internal fun interface Expression {
    fun value(scope: Scope): Any?
}

/** Reads expressions, in jinja2's order of precedence. */
internal class Expressions(private val tokens: Tokens) {
    /** A whole expression, `a if b else c` included. */
    fun read(): Expression {
        var found = or()
        while (tokens.takeName("if")) {
            val whole = found
            val condition = or()
            val other = if (tokens.takeName("else")) read() else Expression { Undefined("else") }
            found = Expression { scope -> (if (isTrue(condition.value(scope))) whole else other).value(scope) }
        }
        return found
    }

    /** An expression without `a if b else c`: in a `for`, an `if` filters. */
    fun readWithoutCondition(): Expression = or()

    private fun or(): Expression {
        var left = and()
        while (tokens.takeName("or")) {
            val first = left
            val second = and()
            left = Expression { scope -> first.value(scope).let { if (isTrue(it)) it else second.value(scope) } }
        }
        return left
    }

    private fun and(): Expression {
        var left = not()
        while (tokens.takeName("and")) {
            val first = left
            val second = not()
            left = Expression { scope -> first.value(scope).let { if (isTrue(it)) second.value(scope) else it } }
        }
        return left
    }

    private fun not(): Expression {
        if (!tokens.takeName("not")) return comparison()
        val value = not()
        return Expression { scope -> !isTrue(value.value(scope)) }
    }

    /** `a < b <= c` is `a < b and b <= c`. */
    private fun comparison(): Expression {
        val first = binary(0)
        val rest = ArrayList<Pair<String, Expression>>()
        while (true) {
            val operator = comparator() ?: break
            rest += operator to binary(0)
        }
        if (rest.isEmpty()) return first
        return Expression { scope ->
            var left = first.value(scope)
            rest.all { (operator, operand) ->
                val right = operand.value(scope)
                isTrue(calculate(operator, left, right)).also { left = right }
            }
        }
    }

    private fun comparator(): String? = when {
        tokens.isName("in") -> "in".also { tokens.next() }
        tokens.isName("not") && tokens.isName("in", ahead = 1) -> "not in".also { tokens.next() }.also { tokens.next() }
        else -> COMPARATORS.find(tokens::takeOperator)
    }

    private fun binary(level: Int): Expression {
        if (level == LEVELS.size) return unary(filters = true)
        var left = binary(level + 1)
        while (true) {
            val operator = LEVELS[level].find(tokens::takeOperator) ?: return left
            val first = left
            val second = binary(level + 1)
            left = Expression { scope -> calculate(operator, first.value(scope), second.value(scope)) }
        }
    }

    private fun unary(filters: Boolean): Expression {
        val negative = tokens.takeOperator("-")
        val operand = if (negative || tokens.takeOperator("+")) unary(filters = false) else primary()
        val signed = if (negative) Expression { scope -> negate(operand.value(scope)) } else operand
        val whole = members(signed)
        return if (filters) filtersAndTests(whole) else whole
    }

    private fun primary(): Expression {
        val token = tokens.next()
        return when (token.kind) {
            Kind.STRING -> strings(token.text)
            Kind.INTEGER -> constant(token.text.toLongOrNull() ?: tokens.fail("the number ${token.text} is too large"))
            Kind.FLOAT -> constant(token.text.toDouble())
            Kind.NAME -> name(token.text)
            Kind.OPERATOR -> when (token.text) {
                "(" -> parenthesis()
                "[" -> list("]")
                "{" -> map()
                else -> tokens.fail("unexpected '${token.text}'")
            }
            else -> tokens.fail("an expression is missing")
        }
    }

    /** Strings side by side are one. */
    private fun strings(first: String): Expression {
        var text = first
        while (tokens.peek().kind == Kind.STRING) text += tokens.next().text
        return constant(text)
    }

    private fun name(name: String): Expression = when (name) {
        "true", "True" -> constant(true)
        "false", "False" -> constant(false)
        "none", "None" -> constant(null)
        else -> Expression { scope -> scope[name] }
    }

    /** `(a)` is `a`; `(a, b)` is a list. */
    private fun parenthesis(): Expression {
        if (tokens.takeOperator(")")) return constant(emptyList<Any?>())
        val first = read()
        if (tokens.takeOperator(")")) return first
        tokens.expect(",")
        val rest = list(")")
        return Expression { scope -> listOf(first.value(scope)) + items(rest.value(scope)) }
    }

    private fun list(close: String): Expression {
        val parts = separated(close) { read() }
        return Expression { scope -> parts.map { it.value(scope) } }
    }

    private fun map(): Expression {
        val parts = separated("}") { read().also { tokens.expect(":") } to read() }
        return Expression { scope -> parts.associate { (key, value) -> key.value(scope) to value.value(scope) } }
    }

    private fun members(start: Expression): Expression {
        var found = start
        while (true) {
            val value = found
            found = when {
                tokens.takeOperator(".") -> tokens.name().let { name -> Expression { scope -> attribute(value.value(scope), name) } }
                tokens.takeOperator("[") -> subscript(value)
                tokens.takeOperator("(") -> call(value)
                else -> return found
            }
        }
    }

    private fun subscript(value: Expression): Expression {
        val bounds = ArrayList<Expression?>()
        var colons = 0
        while (!tokens.takeOperator("]")) {
            if (tokens.takeOperator(":")) {
                colons++
                if (bounds.size < colons) bounds += null
            } else {
                bounds += read()
            }
        }
        if (colons == 0) {
            val key = bounds.singleOrNull() ?: tokens.fail("one key is expected")
            return Expression { scope -> item(value.value(scope), key.value(scope)) }
        }
        return Expression { scope ->
            val (start, stop, step) = List(3) { bounds.getOrNull(it)?.value(scope) }
            slice(value.value(scope), start, stop, step)
        }
    }

    private fun call(function: Expression): Expression {
        val given = arguments()
        return Expression { scope ->
            scope.step()
            val called = function.value(scope)
            if (called !is Callable) {
                throw TemplateError("'${(called as? Undefined)?.name ?: asText(called)}' cannot be called")
            }
            called.call(given(scope))
        }
    }

    private fun filtersAndTests(start: Expression): Expression {
        var found = start
        while (true) {
            val value = found
            found = when {
                tokens.takeOperator("|") -> filter(value)
                tokens.takeName("is") -> test(value)
                else -> return found
            }
        }
    }

    private fun filter(value: Expression): Expression {
        val name = tokens.name()
        val given = if (tokens.takeOperator("(")) arguments() else NOTHING
        return Expression { scope -> filter(name, value.value(scope), given(scope)) }
    }

    private fun test(value: Expression): Expression {
        val wanted = !tokens.takeName("not")
        val name = tokens.name()
        val takesArgument = name in TESTS_OF_TWO
        val argument = if (takesArgument) members(primary()) else constant(null)
        return Expression { scope -> test(name, value.value(scope), argument.value(scope)) == wanted }
    }

    private fun arguments(): (Scope) -> Arguments {
        val parts = separated(")") { (if (tokens.isAssignment()) tokens.name().also { tokens.next() } else null) to read() }
        val (positional, named) = parts.partition { (name, _) -> name == null }
        return { scope ->
            Arguments(positional.map { it.second.value(scope) }, named.associate { (name, value) -> "$name" to value.value(scope) })
        }
    }

    private fun <T> separated(close: String, read: () -> T): List<T> {
        val parts = ArrayList<T>()
        while (!tokens.takeOperator(close)) {
            if (parts.isNotEmpty()) {
                tokens.expect(",")
                if (tokens.takeOperator(close)) break
            }
            parts += read()
        }
        return parts
    }

    private fun constant(value: Any?) = Expression { value }

    private companion object {
        val NOTHING: (Scope) -> Arguments = { Arguments(emptyList()) }
        val COMPARATORS = listOf("==", "!=", "<=", ">=", "<", ">")
        val LEVELS = listOf(listOf("+", "-"), listOf("~"), listOf("*", "//", "/", "%"))
        val TESTS_OF_TWO = setOf("equalto", "eq", "ne", "in")
    }
}
