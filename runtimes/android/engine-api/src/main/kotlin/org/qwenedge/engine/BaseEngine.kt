package org.qwenedge.engine

import org.qwenedge.core.ContextLimitException
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.Manifest

/** What engines have in common: the position, what may be asked of them, and whether the last call left the state whole. */
abstract class BaseEngine(protected val manifest: Manifest, final override val threads: Int) : Engine {
    final override val contextLength get() = manifest.contextLength
    final override val vocabSize get() = manifest.vocabSize
    final override val prefillChunk get() = manifest.prefillChunk
    final override var position = 0
        private set
    private var broken = false

    final override fun forward(tokens: IntArray): FloatArray {
        check(tokens)
        broken = true
        val logits = run(tokens)
        position += tokens.size
        broken = false
        return logits
    }

    final override fun reset() = stand(0) { clear() }

    final override fun snapshot(): Snapshot {
        if (broken) throw EngineException(HALF_WRITTEN)
        return remember()
    }

    final override fun restore(snapshot: Snapshot) = stand(snapshot.position) { recall(snapshot) }

    final override fun close() {
        broken = true
        release()
    }

    /** One call of the model on at most [prefillChunk] tokens at the position; the logits after the last. */
    protected abstract fun run(tokens: IntArray): FloatArray

    /** Bring the state back to that of an empty sequence. */
    protected abstract fun clear()

    protected abstract fun remember(): Snapshot

    protected abstract fun recall(snapshot: Snapshot)

    protected abstract fun release()

    private fun stand(place: Int, bringBack: () -> Unit) {
        broken = true
        position = 0
        bringBack()
        position = place
        broken = false
    }

    private fun check(tokens: IntArray) {
        if (broken) throw EngineException(HALF_WRITTEN)
        if (tokens.isEmpty() || tokens.size > prefillChunk) {
            throw EngineException("${tokens.size} tokens in a call that takes 1 to $prefillChunk")
        }
        tokens.find { it < 0 || it >= vocabSize }?.let { throw EngineException("token id $it is outside the vocabulary of $vocabSize") }
        if (position + tokens.size > contextLength) {
            throw ContextLimitException("${tokens.size} tokens after $position do not fit the context of $contextLength; start a new chat")
        }
    }

    private companion object {
        const val HALF_WRITTEN = "the last call failed and left the state half written; start the chat anew"
    }
}
