package org.qwenedge.core.tokenizer

import java.io.File
import java.io.IOException
import java.util.regex.Pattern
import org.qwenedge.core.TokenizerException
import org.qwenedge.core.json.JsonException
import org.qwenedge.core.json.JsonReader

private const val MAX_TOKENS = 1 shl 24
private val NORMALIZERS = setOf(null, "NFC")

/** The tokenizer in a `tokenizer.json`, refused where it asks for anything but byte-level byte-pair encoding. */
fun readTokenizer(place: File): Tokenizer = try {
    place.inputStream().buffered().use { bytes -> TokenizerFile(JsonReader(bytes)).read() }
} catch (error: JsonException) {
    throw TokenizerException("$place: not JSON: ${error.message}; import the bundle again")
} catch (error: IOException) {
    throw TokenizerException("$place: cannot be read: ${error.message}; import the bundle again")
} catch (error: ClassCastException) {
    throw TokenizerException("$place: not a tokenizer.json: ${error.message}; import the bundle again")
} catch (error: TokenizerException) {
    throw TokenizerException("$place: ${error.message}")
}

/** Reads the file in one pass: vocabulary and merges have hundreds of thousands of entries. */
private class TokenizerFile(private val json: JsonReader) {
    private val ids = HashMap<String, Int>()
    private val merges = ArrayList<Pair<String, String>>()
    private val added = ArrayList<AddedToken>()
    private var normalizer: String? = null
    private var split: Pattern? = null
    private var byteLevel = false
    private var decoder: String? = null
    private val model = HashMap<String, Any?>()

    fun read(): Tokenizer {
        json.fields { name ->
            when (name) {
                "added_tokens" -> json.items { readAdded(json.value() as Map<*, *>) }
                "normalizer" -> normalizer = type(json.value())
                "pre_tokenizer" -> readPreTokenizer(json.value() as Map<*, *>)
                "decoder" -> decoder = type(json.value())
                "model" -> readModel()
                else -> json.value()
            }
        }
        json.end()
        check()
        return build()
    }

    private fun readAdded(token: Map<*, *>) {
        val text = token["content"] as String
        val odd = listOf("lstrip", "rstrip", "single_word", "normalized").find { token[it] == true }
        if (odd != null) refuse("the added token '$text' is $odd")
        added += AddedToken((token["id"] as Long).toInt(), text, token["special"] as Boolean)
    }

    private fun readPreTokenizer(step: Map<*, *>) {
        when (type(step)) {
            "Sequence" -> (step["pretokenizers"] as List<*>).forEach { readPreTokenizer(it as Map<*, *>) }
            "Split" -> {
                if (step["behavior"] != "Isolated" || step["invert"] == true) refuse("it splits in another way")
                split = splitPattern((step["pattern"] as Map<*, *>)["Regex"] as String)
            }
            "ByteLevel" -> {
                if (step["add_prefix_space"] == true || step["use_regex"] == true) {
                    refuse("its bytes are split in another way")
                }
                byteLevel = true
            }
            else -> refuse("a step of kind '${type(step)}'")
        }
    }

    private fun readModel() = json.fields { name ->
        when (name) {
            "vocab" -> json.fields { token -> ids[token] = (json.value() as Long).toInt() }
            "merges" -> json.items { merges += merge(json.value()) }
            else -> model[name] = json.value()
        }
    }

    /** A pair, written as a list or, by older files, as two words. */
    private fun merge(value: Any?): Pair<String, String> {
        val parts = value as? List<*> ?: (value as String).split(' ')
        if (parts.size != 2) refuse("a merge of ${parts.size} parts")
        return parts[0] as String to parts[1] as String
    }

    private fun check() {
        if (model["type"] != "BPE") refuse("a model of kind '${model["type"]}'")
        val odd = listOf("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
            .find { model[it] != null && model[it] != "" }
                ?: listOf("ignore_merges", "byte_fallback").find { model[it] == true }
        if (odd != null) refuse("'$odd' in its model")
        if (normalizer !in NORMALIZERS) refuse("the normalizer '$normalizer'")
        if (!byteLevel || decoder != "ByteLevel") refuse("no bytes below its tokens")
    }

    private fun build(): Tokenizer {
        val largest = (ids.values + added.map { it.id }).maxOrNull() ?: refuse("no tokens")
        if (largest >= MAX_TOKENS || (ids.values + added.map { it.id }).any { it < 0 }) refuse("ids beyond all bounds")
        val texts = arrayOfNulls<String>(largest + 1)
        ids.forEach { (text, id) -> texts[id] = text }
        added.forEach { texts[it.id] = it.text }
        for (byte in 0..255) id(ByteLetters.letter(byte.toByte()).toString())
        val pairs = BytePairs()
        for ((left, right) in merges) pairs.add(id(left), id(right), id(left + right))
        val pattern = split ?: refuse("no pattern that splits words")
        return Tokenizer(texts, pairs, pattern, added, normalized = normalizer != null)
    }

    private fun id(token: String): Int = ids[token] ?: refuse("the token '$token' is not in its vocabulary")

    private fun type(value: Any?): String? = (value as Map<*, *>?)?.get("type") as String?

    private fun refuse(what: String): Nothing =
        throw TokenizerException("this tokenizer has $what, which this app cannot read; use one of Qwen3.5")
}
