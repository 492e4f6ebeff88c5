package org.qwenedge.core.template

/** How a statement ended: a `break` or `continue` leaves everything up to its loop. */
internal enum class Flow { ON, BREAK, CONTINUE }

/** A piece of a template that does something. */
internal fun interface Statement {
    fun run(scope: Scope): Flow
}

/** Reads the statements of a template: text, `{{ values }}` and the blocks that chat templates use. */
internal class Statements(private val tokens: Tokens) {
    private val expressions = Expressions(tokens)

    /** A whole template. */
    fun read(): Statement {
        val body = body()
        if (tokens.peek().kind != Kind.END) tokens.fail("'${tokens.peek(1).text}' has no beginning")
        return body
    }

    /** Statements up to a block that begins with one of [ends]; its begin and name are left. */
    private fun body(vararg ends: String): Statement {
        val parts = ArrayList<Statement>()
        while (true) {
            val token = tokens.peek()
            when {
                token.kind == Kind.DATA -> parts += text(tokens.next().text)
                tokens.take(Kind.VARIABLE_BEGIN) -> parts += output()
                token.kind == Kind.END -> break
                tokens.peek(1).text in ends || tokens.peek(1).text in ENDS -> break
                else -> parts += block()
            }
        }
        if (ends.isNotEmpty() && tokens.peek().kind == Kind.END) tokens.fail("'${ends.last()}' is missing")
        return Statement { scope ->
            for (part in parts) {
                val flow = part.run(scope)
                if (flow != Flow.ON) return@Statement flow
            }
            Flow.ON
        }
    }

    private fun text(text: String) = on { scope -> scope.write(text) }

    private fun output(): Statement {
        val value = expressions.read()
        tokens.expect(Kind.VARIABLE_END)
        return on { scope -> scope.write(asText(value.value(scope))) }
    }

    private fun block(): Statement {
        tokens.next()
        return when (val name = tokens.name()) {
            "if" -> condition()
            "for" -> loop()
            "set" -> set()
            "macro" -> macro()
            "generation" -> generation()
            "break" -> jump(Flow.BREAK)
            "continue" -> jump(Flow.CONTINUE)
            else -> tokens.fail("no block named '$name'")
        }
    }

    private fun condition(): Statement {
        val condition = expressions.read()
        endOfTag()
        val yes = body("elif", "else", "endif")
        tokens.next()
        val no = when (tokens.name()) {
            "elif" -> condition()
            "else" -> otherwise("endif")
            else -> nothing()
        }
        return Statement { scope -> (if (isTrue(condition.value(scope))) yes else no).run(scope) }
    }

    private fun loop(): Statement {
        val names = names()
        if (!tokens.takeName("in")) tokens.fail("'in' is missing")
        val source = expressions.readWithoutCondition()
        val filter = if (tokens.takeName("if")) expressions.read() else null
        endOfTag()
        val body = body("else", "endfor")
        tokens.next()
        val otherwise = if (tokens.name() == "else") otherwise("endfor") else nothing()
        return Loop(names, source, filter, body, otherwise)
    }

    /** What follows an `else`, up to the block that ends it. */
    private fun otherwise(end: String): Statement {
        endOfTag()
        return body(end).also { close(end) }
    }

    private fun nothing(): Statement {
        endOfTag()
        return on { }
    }

    private fun set(): Statement {
        val names = names()
        if (names.size == 1 && tokens.takeOperator(".")) return setField(names.single())
        if (!tokens.takeOperator("=")) return setBlock(names.single())
        val value = expressions.read()
        endOfTag()
        return on { scope -> assign(scope, names, value.value(scope)) }
    }

    private fun setField(target: String): Statement {
        val field = tokens.name()
        tokens.expect("=")
        val value = expressions.read()
        endOfTag()
        return on { scope ->
            val namespace = scope[target] as? Namespace ?: throw TemplateError("'$target' is no namespace")
            namespace.fields[field] = value.value(scope)
        }
    }

    private fun setBlock(name: String): Statement {
        endOfTag()
        val body = body("endset")
        close("endset")
        return on { scope -> scope[name] = scope.captured { body.run(scope.inner()) } }
    }

    private fun macro(): Statement {
        val name = tokens.name()
        tokens.expect("(")
        val parameters = ArrayList<Pair<String, Expression?>>()
        while (!tokens.takeOperator(")")) {
            if (parameters.isNotEmpty()) tokens.expect(",")
            parameters += tokens.name() to if (tokens.takeOperator("=")) expressions.read() else null
        }
        endOfTag()
        val body = body("endmacro")
        close("endmacro")
        return on { scope -> scope[name] = Callable { given -> callMacro(scope.inner(), parameters, given, body) } }
    }

    private fun callMacro(scope: Scope, parameters: List<Pair<String, Expression?>>, given: Arguments, body: Statement): String {
        if (given.positional.size > parameters.size) {
            throw TemplateError("a macro got ${given.positional.size} arguments")
        }
        parameters.forEachIndexed { index, (name, default) ->
            scope[name] = when {
                index < given.positional.size -> given.positional[index]
                name in given.named -> given.named[name]
                else -> if (default == null) Undefined(name) else default.value(scope)
            }
        }
        return scope.captured { body.run(scope) }
    }

    /** `{% generation %}` marks the assistant's text for training; when rendering it is only its body. */
    private fun generation(): Statement {
        endOfTag()
        return body("endgeneration").also { close("endgeneration") }
    }

    private fun jump(flow: Flow): Statement {
        endOfTag()
        return Statement { flow }
    }

    private fun names(): List<String> {
        val names = arrayListOf(tokens.name())
        while (tokens.takeOperator(",")) names += tokens.name()
        return names
    }

    private fun close(name: String) {
        tokens.next()
        if (tokens.name() != name) tokens.fail("'$name' is missing")
        endOfTag()
    }

    private fun endOfTag() = tokens.expect(Kind.BLOCK_END)

    private fun on(action: (Scope) -> Unit) = Statement { scope ->
        action(scope)
        Flow.ON
    }

    private companion object {
        val ENDS = setOf("elif", "else", "endif", "endfor", "endset", "endmacro", "endgeneration")
    }
}

/** Gives a value to one name, or its items to several. */
internal fun assign(scope: Scope, names: List<String>, value: Any?) {
    if (names.size == 1) {
        scope[names.single()] = value
        return
    }
    val parts = items(value)
    if (parts.size != names.size) throw TemplateError("${parts.size} values for ${names.size} names")
    names.zip(parts).forEach { (name, part) -> scope[name] = part }
}
