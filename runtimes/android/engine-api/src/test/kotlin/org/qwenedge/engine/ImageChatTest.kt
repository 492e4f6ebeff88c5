package org.qwenedge.engine

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.qwenedge.core.ContextLimitException
import org.qwenedge.core.Golden
import org.qwenedge.core.ImageException
import org.qwenedge.core.artifact.Vision
import org.qwenedge.core.int
import org.qwenedge.core.ints
import org.qwenedge.core.map
import org.qwenedge.core.objects
import org.qwenedge.core.template.ChatTemplate
import org.qwenedge.core.text
import org.qwenedge.core.texts
import org.qwenedge.core.tokenizer.readTokenizer
import org.qwenedge.core.vision.Grid
import org.qwenedge.core.vision.ImageSpec
import org.qwenedge.core.vision.PatchedImage

/** A chat with pictures, replayed call by call: the same tokens at the same positions with the same features as in Python. */
class ImageChatTest {
    private val golden = Golden.read("image_chat.json")
    private val pictures = golden.map("pictures")

    @Test
    fun `a chat with pictures replays call by call`() {
        val engine = RoteEngine(golden)
        val voice = Voice(
            tokenizer = readTokenizer(Golden.repository.resolve(golden.text("tokenizer_file"))),
            template = ChatTemplate.read(Golden.repository.resolve(golden.text("template_file"))),
            options = golden.map("options").entries.associate { (key, value) -> key as String to value },
        )
        val conversation = Conversation(engine, voice)
        for (step in golden.objects("script")) play(conversation, step)
        assertEquals(0, engine.missing)
    }

    private fun play(conversation: Conversation, step: Map<*, *>) {
        val settings = Settings(golden.ints("eos_token_ids"))
        val before = conversation.messages
        val pieces = ArrayList<Piece>()
        val speak: () -> Unit = {
            when (step.text("do")) {
                "say" -> conversation.say(message(step), settings, onPiece = pieces::add)
                "edit_last" -> conversation.editLast(message(step), settings, onPiece = pieces::add)
                "regenerate" -> conversation.regenerate(settings, onPiece = pieces::add)
                else -> conversation.reset()
            }
        }
        when (step["refused"]) {
            "image" -> assertFailsWith<ImageException> { speak() }
            "context" -> assertFailsWith<ContextLimitException> { speak() }
            else -> return speak().also { assertEquals(step["pieces"] ?: emptyList<String>(), pieces.map { it.text }) }
        }
        assertEquals(before, conversation.messages, "a refused message was kept")
    }

    private fun message(step: Map<*, *>) =
        Message.user(step.text("text"), if ("pictures" in step) step.texts("pictures").map(::seen) else emptyList())

    /** A picture of the golden file: its features are its number and the place of each token. */
    private fun seen(name: String): SeenImage {
        val (height, width) = pictures.ints(name)
        val number = pictures.keys.indexOf(name).toFloat()
        val features = FloatArray(2 * height * width) { at -> if (at % 2 == 0) number else (at / 2).toFloat() }
        return SeenImage(features, Grid(height, width), name)
    }
}

/** Knows one chat with pictures by heart, and refuses every other call. */
private class RoteEngine(golden: Map<*, *>) : SeeingEngine {
    private class Remembered(override val position: Int, val id: Int, val lag: Int) : Snapshot

    override val contextLength = golden.int("context_length")
    override val vocabSize = golden.int("vocab_size")
    override val prefillChunk = golden.int("prefill_chunk")
    override val threads = 1
    override val vision = Vision(
        towerFile = "tower", embeddingFile = "embedding", hiddenSize = golden.int("hidden_size"),
        imageTokenId = golden.int("image_token_id"), startTokenId = 0, endTokenId = 0,
        images = ImageSpec(4, 2, 2, 64, 1024, List(3) { 0.5 }, List(3) { 0.5 }),
    )
    override var position = 0
        private set
    private var lag = 0
    private val calls = ArrayDeque(golden.objects("calls"))

    /** Calls that Python made and the app did not. */
    val missing: Int get() = calls.size

    override val nextPosition get() = position - lag

    override fun see(image: PatchedImage): SeenImage = error("the pictures are known")

    override fun forward(tokens: IntArray): FloatArray {
        val call = expect("forward")
        assertEquals(call.ints("tokens"), tokens.toList())
        assertEquals(call.int("next_position"), nextPosition)
        position += tokens.size
        return answer(call)
    }

    override fun forward(prompt: Prompt): FloatArray {
        val call = expect("forward_prompt")
        assertEquals(call.ints("tokens"), prompt.tokens.toList())
        assertEquals(call["rows"], prompt.rows.map { row -> row.map(Int::toLong) })
        assertEquals((call["features"] as List<*>).flatMap { it as List<*> }, prompt.features.map(Float::toLong))
        val next = maxOf(nextPosition, prompt.rows.maxOf { it.max() } + 1)
        position += prompt.tokens.size
        lag = position - next
        return answer(call)
    }

    override fun reset() {
        expect("reset")
        position = 0
        lag = 0
    }

    override fun snapshot(): Snapshot = Remembered(position, expect("snapshot").int("id"), lag)

    override fun restore(snapshot: Snapshot) {
        val remembered = snapshot as Remembered
        assertEquals(remembered.id, expect("restore").int("id"))
        position = remembered.position
        lag = remembered.lag
    }

    override fun close() = Unit

    private fun answer(call: Map<*, *>) = FloatArray(vocabSize).also { it[call.int("answer")] = 1f }

    private fun expect(name: String): Map<*, *> = calls.removeFirst().also { assertEquals(name, it.text("call")) }
}
