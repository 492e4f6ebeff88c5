package org.qwenedge.core.tokenizer

/** GPT-2's printable letter for each byte: itself where printable, else the next code point from 256 on. */
internal object ByteLetters {
    private val letters = CharArray(256)
    private val bytes = HashMap<Char, Byte>()

    init {
        var next = 256
        for (byte in 0..255) {
            val printable = byte in 0x21..0x7e || byte in 0xa1..0xac || byte in 0xae..0xff
            letters[byte] = if (printable) byte.toChar() else (next++).toChar()
            bytes[letters[byte]] = byte.toByte()
        }
    }

    /** The letter of one byte. */
    fun letter(byte: Byte): Char = letters[byte.toInt() and 0xff]

    /** The bytes that a token's text stands for; a text that is not spelt in letters stands for itself. */
    fun bytes(token: String): ByteArray {
        val spelt = ByteArray(token.length)
        for (index in token.indices) spelt[index] = bytes[token[index]] ?: return token.toByteArray()
        return spelt
    }
}
