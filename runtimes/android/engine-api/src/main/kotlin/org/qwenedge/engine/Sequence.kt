package org.qwenedge.engine

import org.qwenedge.core.tokenizer.Tokenizer

/** A text, image placeholders included, and the digests of its images: two are the same only if both are. */
internal data class Rendered(val text: String, val images: List<String> = emptyList()) {
    fun beginsWith(other: Rendered) = text.startsWith(other.text) && images.take(other.images.size) == other.images
}

/** A place in the sequence to return to: its tokens, what they stand for, the state, and the logits where needed. */
internal class Checkpoint(
    val tokens: List<Int>,
    val rendered: Rendered,
    val snapshot: Snapshot?,
    val logits: FloatArray? = null,
) {
    companion object {
        val START = Checkpoint(tokens = emptyList(), Rendered(""), snapshot = null)
    }
}

/** What an engine has read and written, as tokens and as text. */
internal class Sequence(private val engine: Engine) {
    private var tokens: List<Int> = emptyList()

    /** The tokens as text, special ones included. */
    var rendered = Rendered("")
        private set

    /** The engine holds these tokens; not so after an error in the middle of a call. */
    private var inStep = true

    val isEmpty: Boolean get() = tokens.isEmpty()

    /** Whether [longer] continues what the engine holds. */
    fun standsBefore(longer: Rendered): Boolean = inStep && longer.beginsWith(rendered) && longer.text != rendered.text

    fun reset() {
        engine.reset()
        stand(Checkpoint.START)
    }

    fun returnTo(place: Checkpoint) {
        if (place.snapshot == null) engine.reset() else engine.restore(place.snapshot)
        stand(place)
    }

    fun mark(logits: FloatArray? = null): Checkpoint =
        if (tokens.isEmpty()) Checkpoint.START else Checkpoint(tokens, rendered, engine.snapshot(), logits)

    /** Prefill tokens with images among them; the sequence then stands for [whole]. */
    fun read(suffix: List<Int>, whole: Rendered, images: List<SeenImage>, generator: Generator): FloatArray {
        inStep = false
        val logits = generator.prefill(suffix, images)
        inStep = true
        tokens = tokens + suffix
        rendered = whole
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
            rendered = rendered.copy(text = rendered.text + tokenizer.decode(history.drop(read), special = true))
        }
    }

    private fun stand(place: Checkpoint) {
        inStep = true
        tokens = place.tokens
        rendered = place.rendered
    }
}
