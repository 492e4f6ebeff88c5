package org.qwenedge.core.tokenizer

/**
 * Tokens in, text out: what was given out never changes, and all of it together is the text of all tokens.
 *
 * A token may end in the middle of a character, so text comes out only when later tokens cannot change it any more.
 */
class TextStream(private val tokenizer: Tokenizer, private val special: Boolean = false) {
    private var window = ArrayList<Int>()
    private var given = 0

    /** The text that this token completes: often one word, sometimes nothing. */
    fun push(token: Int): String {
        window += token
        val text = text()
        val pending = minOf(text.length - text.trimEnd(REPLACEMENT).length, MOST_PENDING)
        val new = text.substring(given, maxOf(given, text.length - pending))
        given += new.length
        if (pending == 0) clear()
        return new
    }

    /** What is still held back, at the end of the tokens. */
    fun flush(): String = text().substring(given).also { clear() }

    private fun text() = tokenizer.decode(window, special)

    private fun clear() {
        window.clear()
        given = 0
    }

    private companion object {
        /** A character of four bytes can lack its last; each byte shows as one replacement or less. */
        const val MOST_PENDING = 3
    }
}
