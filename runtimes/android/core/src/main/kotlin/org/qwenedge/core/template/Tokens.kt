package org.qwenedge.core.template

/** The tokens of a template, taken one after the other. */
internal class Tokens(private val tokens: List<Token>) {
    private var at = 0

    fun peek(ahead: Int = 0): Token = tokens[minOf(at + ahead, tokens.lastIndex)]

    fun next(): Token = peek().also { at++ }

    fun isName(name: String, ahead: Int = 0): Boolean = peek(ahead).run { kind == Kind.NAME && text == name }

    /** Whether `name =` comes next. */
    fun isAssignment(): Boolean = peek().kind == Kind.NAME && peek(1).run { kind == Kind.OPERATOR && text == "=" }

    fun takeName(name: String): Boolean = isName(name).also { if (it) at++ }

    fun takeOperator(operator: String): Boolean =
        peek().run { kind == Kind.OPERATOR && text == operator }.also { if (it) at++ }

    fun take(kind: Kind): Boolean = (peek().kind == kind).also { if (it) at++ }

    fun name(): String = next().run { if (kind == Kind.NAME) text else fail("a name is missing") }

    fun expect(operator: String) {
        if (!takeOperator(operator)) fail("'$operator' is missing")
    }

    fun expect(kind: Kind) {
        if (!take(kind)) fail("the tag should end here")
    }

    fun fail(problem: String): Nothing = throw TemplateError("line ${peek().line}: $problem")
}
