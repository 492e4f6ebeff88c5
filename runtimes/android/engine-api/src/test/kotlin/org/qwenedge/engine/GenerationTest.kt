package org.qwenedge.engine

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import org.qwenedge.core.Golden
import org.qwenedge.core.events.StopReason
import org.qwenedge.core.objects
import org.qwenedge.core.text
import org.qwenedge.core.tokenizer.readTokenizer

class GenerationTest {
    private val golden = Golden.read("tokenizers.json")
    private val tokenizer = readTokenizer(Golden.repository.resolve(golden.text("tokenizer_file")))
    private val end = checkNotNull(tokenizer.addedId("<|im_end|>"))

    @Test
    fun `text of any script streams whole, and no piece splits a character`() {
        for (text in golden.objects("cases").mapNotNull { it["text"] as String? }.filter { '\ufffd' !in it && "<|" !in it }) {
            val pieces = write(tokenizer.encode(text))
            assertEquals(tokenizer.decode(tokenizer.encode(text)), pieces.joinToString("") { it.text })
            assertFalse(pieces.any { '\ufffd' in it.text || it.text.lastOrNull()?.isHighSurrogate() == true }, text)
            assertEquals(StopReason.EOS, pieces.last().stop)
        }
    }

    @Test
    fun `a stop string is never shown, not even a part of it`() {
        val pieces = write(tokenizer.encode("one two three"), Settings(listOf(end), stopStrings = listOf("two th")))
        assertEquals("one ", pieces.joinToString("") { it.text })
        assertEquals(StopReason.STOP_STRING, pieces.last().stop)
    }

    @Test
    fun `a character that the end cuts off shows as a replacement`() {
        val pieces = write(tokenizer.encode("猫"), Settings(listOf(end), maxTokens = 2))
        assertEquals("\ufffd", pieces.joinToString("") { it.text })
        assertEquals(StopReason.MAX_TOKENS, pieces.last().stop)
    }

    private fun write(tokens: List<Int>, settings: Settings = Settings(listOf(end))): List<Piece> {
        val pieces = ArrayList<Piece>()
        val generator = Generator(ScriptedEngine(tokens, end))
        val logits = generator.prefill(listOf(1, 2, 3))
        generator.stream(tokenizer, logits, arrayListOf(1, 2, 3), settings, pieces::add)
        return pieces
    }
}
