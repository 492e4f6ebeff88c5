package org.qwenedge.core.tokenizer

import java.io.ByteArrayOutputStream
import java.text.Normalizer
import java.util.regex.Pattern

/** A token that stands for itself in a text; a special one is left out of what a reader sees. */
class AddedToken(val id: Int, val text: String, val special: Boolean)

/** Text to tokens and back: byte-level byte-pair encoding, as `tokenizer.json` describes it. */
class Tokenizer internal constructor(
    private val texts: Array<String?>,
    private val pairs: BytePairs,
    private val split: Pattern,
    private val added: List<AddedToken>,
    private val normalized: Boolean,
) {
    private val letterIds = IntArray(256)
    private val byId = added.associateBy { it.id }
    private val addedPattern = added.sortedByDescending { it.text.length }.joinToString("|") { Pattern.quote(it.text) }.toPattern()
    private val addedIds = added.associate { it.text to it.id }

    init {
        val ids = HashMap<String, Int>()
        texts.forEachIndexed { id, text -> if (text?.length == 1) ids[text] = id }
        for (byte in 0..255) letterIds[byte] = ids.getValue(ByteLetters.letter(byte.toByte()).toString())
    }

    /** Ids are below this number. */
    val vocabSize: Int get() = texts.size

    /** Tokens of a text; special tokens written out in it count as such, and none is added. */
    fun encode(text: String): List<Int> {
        val tokens = ArrayList<Int>()
        var from = 0
        if (added.isNotEmpty()) {
            val matcher = addedPattern.matcher(text)
            while (matcher.find()) {
                encodePlain(text.substring(from, matcher.start()), tokens)
                tokens += addedIds.getValue(matcher.group())
                from = matcher.end()
            }
        }
        encodePlain(text.substring(from), tokens)
        return tokens
    }

    /** The text of tokens; special tokens show only when asked for. */
    fun decode(tokens: List<Int>, special: Boolean = false): String {
        val bytes = ByteArrayOutputStream()
        for (token in tokens) {
            val text = texts.getOrNull(token) ?: continue
            if (special || byId[token]?.special != true) bytes.write(ByteLetters.bytes(text))
        }
        return decodeUtf8(bytes.toByteArray())
    }

    /** The id of an added token by its text. */
    fun addedId(text: String): Int? = addedIds[text]

    private fun encodePlain(text: String, tokens: MutableList<Int>) {
        if (text.isEmpty()) return
        val form = if (normalized) Normalizer.normalize(text, Normalizer.Form.NFC) else text
        val matcher = split.matcher(form)
        var from = 0
        while (matcher.find()) {
            if (matcher.end() == matcher.start()) continue
            encodeWord(form.substring(from, matcher.start()), tokens)
            encodeWord(matcher.group(), tokens)
            from = matcher.end()
        }
        encodeWord(form.substring(from), tokens)
    }

    private fun encodeWord(word: String, tokens: MutableList<Int>) {
        if (word.isEmpty()) return
        val bytes = word.toByteArray()
        tokens += pairs.merge(IntArray(bytes.size) { letterIds[bytes[it].toInt() and 0xff] })
    }
}

private fun ByteArrayOutputStream.write(bytes: ByteArray) = write(bytes, 0, bytes.size)
