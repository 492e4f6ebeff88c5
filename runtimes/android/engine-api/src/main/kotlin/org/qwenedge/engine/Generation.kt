package org.qwenedge.engine

import org.qwenedge.core.ContextLimitException
import org.qwenedge.core.ImageException
import org.qwenedge.core.SamplingException
import org.qwenedge.core.events.Event
import org.qwenedge.core.events.Sink
import org.qwenedge.core.events.StopReason
import org.qwenedge.core.sampling.Sampler
import org.qwenedge.core.sampling.Sampling
import org.qwenedge.core.tokenizer.StopStrings
import org.qwenedge.core.tokenizer.TextStream
import org.qwenedge.core.tokenizer.Tokenizer

/** How tokens are chosen, and when a generation ends besides a full context. */
data class Settings(
    val eosTokenIds: List<Int>,
    val sampling: Sampling = Sampling.GREEDY,
    val maxTokens: Int? = null,
    val stopStrings: List<String> = emptyList(),
) {
    init {
        if (maxTokens != null && maxTokens < 1) {
            throw SamplingException("max_tokens is $maxTokens; it must be 1 or more")
        }
    }
}

/** One step of a stream: the token chosen, and the text that is certain since the last piece. */
data class Piece(val token: Int, val text: String, val stop: StopReason? = null)

/** Whether somebody wants the generation to end; asked before each call of the model, from the model's thread. */
fun interface Cancellation {
    fun isCancelled(): Boolean

    companion object {
        val NEVER = Cancellation { false }
    }
}

/** The prompt was broken off; the sequence stands somewhere inside it. */
internal class CancelledInPrompt : Exception()

/** The one generation loop: prefill, choose, stop, stream. */
class Generator(
    private val engine: Engine,
    private val clock: () -> Long = System::nanoTime,
    private val emit: Sink = Sink.NONE,
    private val cancellation: Cancellation = Cancellation.NEVER,
) {
    /** Append a prompt chunk by chunk and return the logits after it; [images] are those of its image tokens. */
    fun prefill(tokens: List<Int>, images: List<SeenImage> = emptyList()): FloatArray {
        val room = engine.contextLength - engine.position
        if (tokens.size > room) {
            throw ContextLimitException(
                "the prompt has ${tokens.size} tokens, $room of ${engine.contextLength} are left; shorten it or start a new chat",
            )
        }
        if (images.isEmpty()) return chunks(tokens) { start, stop -> engine.forward(tokens.subList(start, stop).toIntArray()) }
        val seeing = engine as? SeeingEngine ?: throw ImageException("this model cannot see; choose one that can")
        val prompt = seeing.promptOf(tokens, images)
        return chunks(tokens) { start, stop -> seeing.forward(prompt.cut(start, stop)) }
    }

    /**
     * Choose tokens after a prefill, feed them and hand over their text: no piece ever ends inside a character or shows a
     * part of a stop string. [history] grows with what is fed: a chosen token is fed only when the next one is wanted, so an
     * end token never is.
     */
    fun stream(
        tokenizer: Tokenizer,
        first: FloatArray,
        history: MutableList<Int>,
        settings: Settings,
        onPiece: (Piece) -> Unit,
    ): StopReason {
        val sampler = Sampler(settings.sampling)
        val text = TextStream(tokenizer)
        val stops = StopStrings(settings.stopStrings)
        var logits = first
        var count = 0
        var reason = StopReason.CANCELLED
        try {
            while (true) {
                val token = sampler.choose(logits, history)
                emit.emit(Event.Token(clock(), count, token))
                count++
                val end = endOf(token, count, settings)
                val step = stops.push(if (end == StopReason.EOS) "" else text.push(token))
                val stop = if (step.reached) StopReason.STOP_STRING else end
                    ?: StopReason.CANCELLED.takeIf { cancellation.isCancelled() }
                val rest = if (stop == null || step.reached) "" else rest(text, stops)
                onPiece(Piece(token, step.text + rest, stop))
                if (stop != null) {
                    reason = stop
                    return stop
                }
                history += token
                logits = engine.forward(intArrayOf(token))
            }
        } finally {
            emit.emit(Event.Stop(clock(), reason, count))
        }
    }

    private fun chunks(tokens: List<Int>, forward: (start: Int, stop: Int) -> FloatArray): FloatArray {
        var logits = FloatArray(0)
        for (start in tokens.indices step engine.prefillChunk) {
            if (cancellation.isCancelled()) throw CancelledInPrompt()
            val stop = minOf(start + engine.prefillChunk, tokens.size)
            emit.emit(Event.PrefillStart(clock(), engine.position, stop - start))
            logits = forward(start, stop)
            emit.emit(Event.PrefillEnd(clock(), engine.position, stop - start))
        }
        return logits
    }

    private fun endOf(token: Int, count: Int, settings: Settings): StopReason? = when {
        token in settings.eosTokenIds -> StopReason.EOS
        settings.maxTokens != null && count >= settings.maxTokens -> StopReason.MAX_TOKENS
        engine.position >= engine.contextLength -> StopReason.CONTEXT
        else -> null
    }

    /** The text still held back when a generation ends. */
    private fun rest(text: TextStream, stops: StopStrings): String {
        val step = stops.push(text.flush())
        return if (step.reached) step.text else step.text + stops.flush()
    }
}
