package org.qwenedge.engine

import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.qwenedge.core.EngineException
import org.qwenedge.core.Golden
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.int
import org.qwenedge.core.ints
import org.qwenedge.core.objects
import org.qwenedge.core.text

/** What every fake has in common: a position, and snapshots that remember it. */
abstract class FakeEngine(
    override val contextLength: Int,
    override val vocabSize: Int,
    override val prefillChunk: Int,
) : Engine {
    protected class At(override val position: Int, val id: Int) : Snapshot

    final override var position = 0
        private set
    override val threads = 1
    var closed = false
        private set

    override fun forward(tokens: IntArray): FloatArray {
        check(!closed && tokens.size in 1..prefillChunk && position + tokens.size <= contextLength)
        val logits = answer(tokens)
        position += tokens.size
        return logits
    }

    override fun reset() {
        position = 0
    }

    override fun snapshot(): Snapshot = At(position, id = 0)

    override fun restore(snapshot: Snapshot) {
        position = snapshot.position
    }

    override fun close() {
        closed = true
    }

    protected abstract fun answer(tokens: IntArray): FloatArray
}

/** Knows one chat by heart, recorded on a real runtime, and refuses every other call. */
class ReplayEngine(private val recording: Map<*, *>) : FakeEngine(
    recording.int("context_length"), recording.int("vocab_size"), recording.int("prefill_chunk"),
) {
    private val calls = ArrayDeque(recording.objects("calls"))
    private val logits = ByteBuffer.wrap(Golden.file(recording.text("logits_file")).readBytes())
        .order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()

    /** Calls that the chat made and the app did not. */
    val missing: Int get() = calls.size

    override fun answer(tokens: IntArray): FloatArray {
        val call = expect("forward")
        check(call.ints("tokens") == tokens.toList()) { "read ${tokens.toList()} where the recording has ${call.ints("tokens")}" }
        val row = logits.duplicate()
        row.position(call.int("row") * vocabSize)
        return FloatArray(vocabSize).also(row::get)
    }

    override fun reset() {
        expect("reset")
        super.reset()
    }

    override fun snapshot(): Snapshot = At(position, expect("snapshot").int("id"))

    override fun restore(snapshot: Snapshot) {
        check(expect("restore").int("id") == (snapshot as At).id)
        super.restore(snapshot)
    }

    private fun expect(name: String): Map<*, *> {
        val call = calls.removeFirst()
        check(call.text("call") == name) { "$name where the recording has ${call.text("call")}" }
        return call
    }
}

/** Writes given tokens, one after the other, whatever it reads; then the end token for ever. */
class ScriptedEngine(
    private val tokens: List<Int>,
    private val endToken: Int,
    contextLength: Int = 4096,
    prefillChunk: Int = 32,
    vocabSize: Int = 2048,
    /** Called before each call of the model: to fail, or to interfere. */
    var before: (ScriptedEngine, IntArray) -> Unit = { _, _ -> },
) : FakeEngine(contextLength, vocabSize, prefillChunk) {
    private var written = 0

    override fun reset() {
        super.reset()
        written = 0
    }

    override fun snapshot(): Snapshot = At(position, id = written)

    override fun restore(snapshot: Snapshot) {
        super.restore(snapshot)
        written = (snapshot as At).id
    }

    override fun answer(tokens: IntArray): FloatArray {
        before(this, tokens)
        written = if (tokens.size == 1) written + 1 else 0
        return FloatArray(vocabSize).also { it[this.tokens.getOrElse(written) { endToken }] = 1f }
    }
}

/** A runtime that opens whatever [engine] makes. */
class FakeFactory(
    override val runtime: String = "onnxruntime",
    override val version: String = "1.31.1",
    private val engine: (Artifact) -> Engine = { throw EngineException("nothing to open") },
) : EngineFactory {
    override fun open(artifact: Artifact, threads: Int): Engine = engine(artifact)
}
