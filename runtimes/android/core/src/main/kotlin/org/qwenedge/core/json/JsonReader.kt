package org.qwenedge.core.json

import java.io.InputStream
import java.io.InputStreamReader
import java.io.Reader
import java.io.StringReader
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/** Text that is no JSON; `offset` counts characters from the start. */
class JsonException(message: String, val offset: Long) : Exception("$message at character $offset")

/**
 * Reads JSON that nobody vouches for, strictly by RFC 8259: no key twice, no NaN, nothing after the end, limited depth.
 *
 * Values become Kotlin's own: `Map<String, Any?>`, `List<Any?>`, `String`, `Long` (`Double` where it does not fit),
 * `Double`, `Boolean`, `null`. Large files are read piece by piece with [fields] and [items], which build nothing.
 */
class JsonReader(private val source: Reader) {
    constructor(text: String) : this(StringReader(text))

    constructor(bytes: InputStream) : this(strictUtf8(bytes))

    private val buffer = CharArray(BUFFER_CHARS)
    private var filled = 0
    private var at = 0
    private var offset = 0L
    private var depth = 0

    /** The one value of the whole text. */
    fun document(): Any? = value().also { end() }

    /** Nothing but white space may be left. */
    fun end() {
        skipSpace()
        if (peek() != END) fail("something follows the value")
    }

    /** The next value, whatever it is. */
    fun value(): Any? {
        skipSpace()
        return when (peek()) {
            '{'.code -> buildMap { fields { name -> put(name, value()) } }
            '['.code -> buildList { items { add(value()) } }
            '"'.code -> string()
            't'.code -> word("true", true)
            'f'.code -> word("false", false)
            'n'.code -> word("null", null)
            else -> number()
        }
    }

    /** The fields of the next object; [onField] has to read the value of each. */
    fun fields(onField: (String) -> Unit) {
        val names = HashSet<String>()
        sequence('{', '}') {
            skipSpace()
            val name = string()
            if (!names.add(name)) fail("key '$name' stands twice in one object")
            skipSpace()
            expect(':')
            onField(name)
        }
    }

    /** The items of the next array; [onItem] has to read each. */
    fun items(onItem: () -> Unit) = sequence('[', ']', onItem)

    /** The next value, which has to be a string. */
    fun string(): String {
        skipSpace()
        expect('"')
        val text = StringBuilder()
        while (true) {
            when (val letter = next()) {
                '"'.code -> return text.toString()
                '\\'.code -> text.append(escaped())
                in 0..<FIRST_PRINTABLE -> fail("a control character in a string")
                else -> text.append(letter.toChar())
            }
        }
    }

    private fun sequence(open: Char, close: Char, onItem: () -> Unit) {
        skipSpace()
        expect(open)
        if (++depth > MAX_DEPTH) fail("nested deeper than $MAX_DEPTH")
        skipSpace()
        if (peek() == close.code) {
            next()
        } else {
            do {
                onItem()
                skipSpace()
                val letter = next()
                if (letter != ','.code && letter != close.code) fail("expected ',' or '$close'")
            } while (letter == ','.code)
        }
        depth--
    }

    private fun escaped(): Char = when (val letter = next().toChar()) {
        '"', '\\', '/' -> letter
        'b' -> '\b'
        'f' -> '\u000c'
        'n' -> '\n'
        'r' -> '\r'
        't' -> '\t'
        'u' -> unicode()
        else -> fail("unknown escape '\\$letter'")
    }

    private fun unicode(): Char {
        var code = 0
        repeat(4) {
            val letter = next()
            val digit = if (letter == END) -1 else Character.digit(letter.toChar(), 16)
            if (digit < 0 || letter > LAST_ASCII) fail("four hexadecimal digits have to follow '\\u'")
            code = code * 16 + digit
        }
        return code.toChar()
    }

    private fun number(): Any {
        val text = StringBuilder()
        while (peek() != END && peek().toChar() in NUMBER_LETTERS) text.append(next().toChar())
        if (!NUMBER.matches(text)) fail(if (text.isEmpty()) "expected a value" else "'$text' is no number")
        val value = text.toString()
        return (if (value.any { it in ".eE" }) null else value.toLongOrNull()) ?: value.toDouble()
    }

    private fun <T> word(word: String, value: T): T {
        for (letter in word) expect(letter)
        return value
    }

    private fun skipSpace() {
        while (peek().let { it == ' '.code || it == '\n'.code || it == '\r'.code || it == '\t'.code }) next()
    }

    private fun expect(letter: Char) {
        if (next() != letter.code) fail("expected '$letter'")
    }

    private fun peek(): Int {
        if (at == filled) {
            filled = try {
                source.read(buffer)
            } catch (error: CharacterCodingException) {
                fail("not UTF-8 ($error)")
            }
            at = 0
            if (filled <= 0) {
                filled = 0
                return END
            }
        }
        return buffer[at].code
    }

    private fun next(): Int {
        val letter = peek()
        if (letter != END) at++
        offset++
        return letter
    }

    private fun fail(problem: String): Nothing = throw JsonException(problem, offset)

    private companion object {
        const val BUFFER_CHARS = 16 * 1024
        const val MAX_DEPTH = 200
        const val END = -1
        const val FIRST_PRINTABLE = 0x20
        const val LAST_ASCII = 0x7f
        const val NUMBER_LETTERS = "+-.0123456789eE"
        val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")

        fun strictUtf8(bytes: InputStream): Reader {
            val decoder = Charsets.UTF_8.newDecoder()
            decoder.onMalformedInput(CodingErrorAction.REPORT).onUnmappableCharacter(CodingErrorAction.REPORT)
            return InputStreamReader(bytes, decoder)
        }
    }
}
