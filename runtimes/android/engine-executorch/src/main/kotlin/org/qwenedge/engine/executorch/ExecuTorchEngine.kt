package org.qwenedge.engine.executorch

import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.Manifest
import org.qwenedge.engine.BaseEngine
import org.qwenedge.engine.Snapshot

/**
 * One sequence in one ExecuTorch program, `forward(tokens, input_pos)`.
 *
 * The state lives inside the program, which clears it when `input_pos` is 0. The Android library gives no way to reach it, so
 * a snapshot remembers tokens, and going back reads them again: right, but as slow as the prompt was.
 */
internal class ExecuTorchEngine(manifest: Manifest, threads: Int, private val module: Module) : BaseEngine(manifest, threads) {
    private class Remembered(val tokens: List<Int>) : Snapshot {
        override val position get() = tokens.size
    }

    private val tokens = ArrayList<Int>()

    override fun run(tokens: IntArray): FloatArray = call(tokens).also { this.tokens += tokens.toList() }

    override fun clear() = tokens.clear()

    override fun remember(): Snapshot = Remembered(tokens.toList())

    override fun recall(snapshot: Snapshot) {
        val wanted = (snapshot as? Remembered)?.tokens
            ?: throw EngineException("this snapshot is of another engine; start the chat anew")
        tokens.clear()
        for (chunk in wanted.chunked(prefillChunk)) run(chunk.toIntArray())
    }

    override fun release() = module.destroy()

    private fun call(chunk: IntArray): FloatArray = failing("run ${chunk.size} tokens after ${tokens.size}") {
        val ids = Tensor.fromBlob(LongArray(chunk.size) { chunk[it].toLong() }, longArrayOf(1, chunk.size.toLong()))
        val place = Tensor.fromBlob(longArrayOf(tokens.size.toLong()), longArrayOf(1))
        val logits = module.execute(METHOD, EValue.from(ids), EValue.from(place)).single().toTensor().dataAsFloatArray
        logits.copyOfRange(logits.size - vocabSize, logits.size)
    }

    companion object {
        const val METHOD = "forward"
    }
}
