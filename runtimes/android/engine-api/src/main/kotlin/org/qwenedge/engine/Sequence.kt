package org.qwenedge.engine

import org.qwenedge.core.tokenizer.Tokenizer

/** A place in the sequence to return to: its tokens, their text, the state, and the logits where they are needed. */
internal class Checkpoint(val tokens: List<Int>, val text: String, val snapshot: Snapshot?, val logits: FloatArray? = null) {
    companion object {
        val START = Checkpoint(tokens = emptyList(), text = "", snapshot = null)
    }
}

/** What an engine has read and written, as tokens and as text. */
internal class Sequence(private val engine: Engine) {
    private var tokens: List<Int> = emptyList()

    /** The tokens as text, special ones included. */
    var text = ""
        private set

    /** The engine holds these tokens; not so after an error in the middle of a call. */
    private var inStep = true

    val isEmpty: Boolean get() = tokens.isEmpty()

    /** Whether [longer] continues what the engine holds. */
    fun standsBefore(longer: String): Boolean = inStep && longer.startsWith(text) && longer != text

    fun reset() {
        engine.reset()
        stand(Checkpoint.START)
    }

    fun returnTo(place: Checkpoint) {
        if (place.snapshot == null) engine.reset() else engine.restore(place.snapshot)
        stand(place)
    }

    fun mark(logits: FloatArray? = null): Checkpoint =
        if (tokens.isEmpty()) Checkpoint.START else Checkpoint(tokens, text, engine.snapshot(), logits)

    /** Prefill tokens; the sequence then stands for [whole]. */
    fun read(suffix: List<Int>, whole: String, generator: Generator): FloatArray {
        inStep = false
        val logits = generator.prefill(suffix)
        inStep = true
        tokens = tokens + suffix
        text = whole
        return logits
    }

    /** Generate; [generate] adds what it feeds to the tokens it is given. */
    fun <T> write(tokenizer: Tokenizer, generate: (MutableList<Int>) -> T): T {
        val history = tokens.toMutableList()
        val read = tokens.size
        inStep = false
        try {
            return generate(history).also { inStep = true }
        } finally {
            tokens = history
            text += tokenizer.decode(history.drop(read), special = true)
        }
    }

    private fun stand(place: Checkpoint) {
        inStep = true
        tokens = place.tokens
        text = place.text
    }
}
