package org.qwenedge.core.tokenizer

/** What an incomplete or invalid piece of UTF-8 decodes to. */
internal const val REPLACEMENT = '\ufffd'

/**
 * Decodes UTF-8 with a replacement character for each maximal wrong piece, as Unicode recommends and Rust does.
 *
 * Written out because the decoders of Java and of Android do not promise the same replacements.
 */
internal fun decodeUtf8(bytes: ByteArray): String {
    val text = StringBuilder(bytes.size)
    var at = 0
    while (at < bytes.size) {
        val first = bytes[at].toInt() and 0xff
        val length = lengthOf(first)
        val valid = 1 + (1..<length).takeWhile { at + it < bytes.size && continues(first, it, bytes[at + it]) }.size
        if (length > 0 && valid == length) text.appendCodePoint(codePoint(bytes, at, length)) else text.append(REPLACEMENT)
        at += valid
    }
    return text.toString()
}

/** Bytes of the character that begins with this byte; 0 where none does. */
private fun lengthOf(first: Int): Int = when (first) {
    in 0x00..0x7f -> 1
    in 0xc2..0xdf -> 2
    in 0xe0..0xef -> 3
    in 0xf0..0xf4 -> 4
    else -> 0
}

/** Whether a byte can stand at a place of a character; the second byte rules out what is too long or too large. */
private fun continues(first: Int, place: Int, byte: Byte): Boolean {
    val value = byte.toInt() and 0xff
    if (place > 1) return value in 0x80..0xbf
    return value in when (first) {
        0xe0 -> 0xa0..0xbf
        0xed -> 0x80..0x9f
        0xf0 -> 0x90..0xbf
        0xf4 -> 0x80..0x8f
        else -> 0x80..0xbf
    }
}

private fun codePoint(bytes: ByteArray, at: Int, length: Int): Int {
    val first = bytes[at].toInt() and 0xff
    if (length == 1) return first
    var code = first and (0xff shr (length + 1))
    for (place in 1..<length) code = (code shl 6) or (bytes[at + place].toInt() and 0x3f)
    return code
}
