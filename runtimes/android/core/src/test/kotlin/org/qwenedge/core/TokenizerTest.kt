package org.qwenedge.core

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue
import org.junit.Assume.assumeTrue
import org.qwenedge.core.tokenizer.StopStrings
import org.qwenedge.core.tokenizer.TextStream
import org.qwenedge.core.tokenizer.Tokenizer
import org.qwenedge.core.tokenizer.readTokenizer

class TokenizerTest {
    private val golden = Golden.read("tokenizers.json")
    private val tiny = readTokenizer(Golden.repository.resolve(golden.text("tokenizer_file")))

    @Test
    fun `the tiny tokenizer gives the tokens and texts of Python`() = check(tiny, golden.objects("cases"))

    @Test
    fun `the real tokenizer of Qwen gives the tokens and texts of Python`() {
        val place = System.getProperty("qwen.tokenizer")
        assumeTrue("no -Dqwen.tokenizer: `python -m tools.golden.qwen_tokenizer FILE` writes it", place != null)
        check(readTokenizer(File(place!!)), Golden.read("qwen_tokenizer.json").objects("cases"))
    }

    @Test
    fun `no piece of a valid text ends inside a character`() {
        val texts = golden.objects("cases").mapNotNull { it["text"] as String? }.filter { '\ufffd' !in it }
        for (text in texts) {
            assertFalse(pieces(tiny, tiny.encode(text)).any { '\ufffd' in it || it.endsInSurrogate() }, text)
        }
    }

    @Test
    fun `a long word without spaces is merged in reasonable time`() {
        val text = "漢字かな".repeat(20_000)
        assertEquals(text, tiny.decode(tiny.encode(text)).also { assertTrue(it.length == text.length) })
    }

    @Test
    fun `text that only starts like a stop string is shown late but whole`() {
        val stops = StopStrings(listOf("</answer>"))
        assertEquals("a ", stops.push("a </ans").text)
        assertEquals("</answers", stops.push("wers").text)
        assertTrue(stops.push(" and</answer> more").reached)
    }

    @Test
    fun `a tokenizer of another kind is refused by name`() {
        val original = Golden.repository.resolve(golden.text("tokenizer_file")).readText()
        val faults = mapOf(
            original.replaceFirst("\"BPE\"", "\"WordPiece\"") to "WordPiece",
            original.replaceFirst("\"NFC\"", "\"Lowercase\"") to "Lowercase",
            original.replaceFirst("\"lstrip\": false", "\"lstrip\": true") to "lstrip",
            original.replaceFirst("\"Isolated\"", "\"Removed\"") to "splits in another way",
            original.replaceFirst("\"byte_fallback\": false", "\"byte_fallback\": true") to "byte_fallback",
            "{}" to "cannot read",
            "[1]" to "not JSON",
            original.dropLast(2) to "not JSON",
            original.replaceFirst("\"added_tokens\": [", "\"added_tokens\": [5, ") to "not a tokenizer.json",
        )
        for ((text, message) in faults) {
            val place = File.createTempFile("tokenizer", ".json").apply { writeText(text) }
            assertContains(assertFailsWith<TokenizerException>(message) { readTokenizer(place) }.message!!, message)
            place.delete()
        }
    }

    private fun check(tokenizer: Tokenizer, cases: List<Map<*, *>>) {
        for (case in cases) {
            val tokens = case.ints("tokens")
            (case["text"] as String?)?.let { assertEquals(tokens, tokenizer.encode(it), it) }
            assertEquals(case.text("decoded"), tokenizer.decode(tokens))
            assertEquals(case.text("decoded_special"), tokenizer.decode(tokens, special = true))
            assertEquals(case.texts("pieces"), pieces(tokenizer, tokens))
        }
    }

    private fun pieces(tokenizer: Tokenizer, tokens: List<Int>): List<String> {
        val stream = TextStream(tokenizer)
        return tokens.map(stream::push) + stream.flush()
    }

    private fun String.endsInSurrogate() = isNotEmpty() && last().isHighSurrogate()
}
