package org.qwenedge.core.template

/** A template that does not compile or cannot run; becomes a ChatTemplateException that says so. */
internal class TemplateError(message: String) : Exception(message)

/** What the template itself refuses, in its own words. */
internal class TemplateRefusal(message: String) : Exception(message)

internal enum class Kind { DATA, BLOCK_BEGIN, BLOCK_END, VARIABLE_BEGIN, VARIABLE_END, NAME, STRING, INTEGER, FLOAT, OPERATOR, END }

internal class Token(val kind: Kind, val text: String, val line: Int)

/**
 * Cuts a template into tokens, as jinja2 does with `trim_blocks` and `lstrip_blocks`: the line break after a block and the
 * space before a block that begins its line are no part of the text.
 */
internal class Lexer(source: String) {
    private val source = source.replace("\r\n", "\n").replace('\r', '\n').removeSuffix("\n")
    private val tokens = ArrayList<Token>()
    private var at = 0
    private var lineStarts = true
    private var counted = 0
    private var lines = 1

    fun tokens(): List<Token> {
        while (at < source.length) {
            val begin = TAG_BEGIN.find(source, at)
            addData(source.substring(at, begin?.range?.first ?: source.length), begin?.value)
            if (begin == null) break
            at = begin.range.last + 1
            when (begin.value[1]) {
                '#' -> skipComment()
                '{' -> addTag(Kind.VARIABLE_BEGIN, Kind.VARIABLE_END, "}}")
                else -> if (!addRaw()) addTag(Kind.BLOCK_BEGIN, Kind.BLOCK_END, "%}")
            }
        }
        add(Kind.END, "")
        return tokens
    }

    private fun addData(text: String, tag: String?) {
        val kept = when {
            tag == null -> text
            tag.endsWith("-") -> text.trimEnd(::isSpace)
            tag.endsWith("+") || tag.startsWith("{{") -> text
            else -> withoutIndent(text)
        }
        if (kept.isNotEmpty()) add(Kind.DATA, kept)
    }

    /** The text without the white space of a last line that holds nothing else. */
    private fun withoutIndent(text: String): String {
        val start = text.lastIndexOf('\n') + 1
        val indent = (start > 0 || lineStarts) && text.drop(start).all(::isSpace)
        return if (indent) text.take(start) else text
    }

    private fun skipComment() {
        val end = COMMENT_END.find(source, at) ?: fail("a comment does not end")
        at = end.range.last + 1
        closeTag(end.value, blockLike = true)
    }

    /** `{% raw %}`: what follows is text up to `{% endraw %}`. */
    private fun addRaw(): Boolean {
        val begin = RAW_BEGIN.matchAt(source, at) ?: return false
        at = begin.range.last + 1
        closeTag(begin.value, blockLike = true)
        val end = RAW_END.find(source, at) ?: fail("a raw block does not end")
        val text = source.substring(at, end.range.first)
        addData(text, end.value.take(3).trimEnd(::isSpace))
        at = end.range.last + 1
        closeTag(end.value, blockLike = true)
        return true
    }

    private fun addTag(beginKind: Kind, endKind: Kind, close: String) {
        add(beginKind, "")
        var nesting = 0
        while (true) {
            while (at < source.length && isSpace(source[at])) at++
            if (nesting == 0) {
                val sign = source.getOrNull(at)?.takeIf { it == '-' || it == '+' }?.toString().orEmpty()
                if (source.startsWith(close, at + sign.length)) {
                    at += sign.length + close.length
                    add(endKind, "")
                    return closeTag(sign + close, blockLike = endKind == Kind.BLOCK_END)
                }
            }
            val token = nextToken()
            if (token in OPENING) nesting++
            if (token in CLOSING) nesting--
        }
    }

    /** White space after a tag: all of it after `-`, one line break after a block. */
    private fun closeTag(tag: String, blockLike: Boolean) {
        val sign = tag[tag.length - 3.coerceAtMost(tag.length)]
        lineStarts = false
        if (sign == '-') {
            while (at < source.length && isSpace(source[at])) at++
        } else if (blockLike && sign != '+' && source.startsWith("\n", at)) {
            at++
            lineStarts = true
        }
    }

    private fun nextToken(): String {
        if (at >= source.length) fail("a tag does not end")
        val letter = source[at]
        if (letter == '"' || letter == '\'') return addString(letter)
        for ((kind, pattern) in PATTERNS) {
            val found = pattern.matchAt(source, at) ?: continue
            at = found.range.last + 1
            add(kind, found.value)
            return if (kind == Kind.OPERATOR) found.value else ""
        }
        fail("unexpected '$letter'")
    }

    private fun addString(quote: Char): String {
        val text = StringBuilder()
        at++
        while (true) {
            val letter = source.getOrNull(at++) ?: fail("a string does not end")
            if (letter == quote) break
            text.append(if (letter == '\\') escaped() else letter)
        }
        add(Kind.STRING, text.toString())
        return ""
    }

    private fun escaped(): String = when (val letter = source.getOrNull(at++)) {
        'n' -> "\n"
        't' -> "\t"
        'r' -> "\r"
        'u' ->
            source.substring(at, minOf(at + 4, source.length)).toIntOrNull(16)?.also { at += 4 }?.toChar()?.toString()
            ?: fail("four hexadecimal digits have to follow '\\u'")
        '\\', '\'', '"' -> letter.toString()
        else -> "\\" + (letter ?: fail("a string does not end"))
    }

    private fun add(kind: Kind, text: String) {
        tokens += Token(kind, text, line())
    }

    private fun line(): Int {
        while (counted < minOf(at, source.length)) if (source[counted++] == '\n') lines++
        return lines
    }

    private fun fail(problem: String): Nothing = throw TemplateError("line ${line()}: $problem")

    private companion object {
        val TAG_BEGIN = Regex("\\{[\\{%#][-+]?")
        val COMMENT_END = Regex("[-+]?#\\}")
        val RAW_BEGIN = Regex("\\s*raw\\s*[-+]?%\\}")
        val RAW_END = Regex("\\{%[-+]?\\s*endraw\\s*[-+]?%\\}")
        val OPENING = setOf("(", "[", "{")
        val CLOSING = setOf(")", "]", "}")
        val PATTERNS = listOf(
            Kind.FLOAT to Regex("[0-9]+(\\.[0-9]+([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"),
            Kind.INTEGER to Regex("[0-9]+"),
            Kind.NAME to Regex("[A-Za-z_][A-Za-z0-9_]*"),
            Kind.OPERATOR to Regex("//|==|!=|<=|>=|[-+*/%~<>=()\\[\\]\\{\\}.,:|]"),
        )
    }
}

/** What Python's `str.isspace` says. */
internal fun isSpace(letter: Char): Boolean = letter.isWhitespace() || letter == '\u0085'
