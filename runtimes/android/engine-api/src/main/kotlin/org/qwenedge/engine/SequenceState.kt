package org.qwenedge.engine

import java.nio.ByteBuffer
import java.util.Collections
import java.util.WeakHashMap
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.StateTensor

/** Where the memory of a state tensor comes from: zeros that the runtime and this library both see. */
fun interface StateMemory {
    fun allocate(tensor: StateTensor): ByteBuffer

    companion object {
        /** The process's own memory; on Android it counts against the small heap of Java, so an app has something better. */
        val DIRECT = StateMemory { tensor -> ByteBuffer.allocateDirect(tensor.bytes.toInt()) }
    }
}

/** One state tensor and its memory, which the runtime shares. */
data class StateBuffer(val tensor: StateTensor, val memory: ByteBuffer) {
    private val axis = tensor.tokenAxis ?: 0
    private val rowBytes = (tensor.bytes / tensor.shape.take(axis + 1).fold(1L, Long::times)).toInt()
    private val blocks = tensor.shape.take(axis).fold(1L, Long::times).toInt()
    private val rows = tensor.shape[axis].toInt()

    /** A copy of the whole tensor. */
    fun copyAll(): ByteArray = ByteArray(memory.capacity()).also { view(0).get(it) }

    fun writeAll(saved: ByteArray) {
        view(0).put(saved)
    }

    /** A copy of the rows of a cache that belong to some positions. */
    fun copyRows(start: Int, stop: Int): ByteArray {
        val saved = ByteArray(blocks * (stop - start) * rowBytes)
        forEachBlock(start, stop) { offset, place, length -> view(offset).get(saved, place, length) }
        return saved
    }

    fun writeRows(start: Int, stop: Int, saved: ByteArray) =
        forEachBlock(start, stop) { offset, place, length -> view(offset).put(saved, place, length) }

    fun clear() {
        val zeros = ByteArray(minOf(memory.capacity(), ZEROS_BYTES))
        val target = view(0)
        while (target.hasRemaining()) target.put(zeros, 0, minOf(zeros.size, target.remaining()))
    }

    private fun forEachBlock(start: Int, stop: Int, copy: (offset: Int, place: Int, length: Int) -> Unit) {
        val length = (stop - start) * rowBytes
        for (block in 0..<blocks) copy((block * rows + start) * rowBytes, block * length, length)
    }

    private fun view(offset: Int): ByteBuffer = memory.duplicate().apply { position(offset) }

    private companion object {
        const val ZEROS_BYTES = 1 shl 20
    }
}

/**
 * All state of one sequence, and snapshots of it that cost little.
 *
 * A snapshot copies the fixed-size states (convolution, recurrent) at once, and rows of the caches only when they are about
 * to be overwritten: a cache only grows, so until somebody goes back, an old position's rows are still in place.
 */
class SequenceState(buffers: List<StateBuffer>) {
    private class Rows(val start: Int, val stop: Int, val saved: List<ByteArray>)

    private class Saved(val owner: SequenceState, override val position: Int, val fixed: List<ByteArray>) : Snapshot {
        /** Rows below are still in the buffers, the rest is in [rows]. */
        var keptFrom = position
        val rows = ArrayList<Rows>()
    }

    private val fixed = buffers.filter { it.tensor.tokenAxis == null }
    private val caches = buffers.filter { it.tensor.tokenAxis != null }
    private val snapshots = Collections.newSetFromMap(WeakHashMap<Saved, Boolean>())

    /** Zero the fixed states; cache rows stay, since nothing reads beyond the position. */
    fun clear() = fixed.forEach(StateBuffer::clear)

    fun snapshot(position: Int): Snapshot =
        Saved(this, position, fixed.map(StateBuffer::copyAll)).also { snapshots.add(it) }

    /** Bring a snapshot's state back and return its position. */
    fun restore(snapshot: Snapshot): Int {
        if (snapshot !is Saved || snapshot.owner !== this) {
            throw EngineException("this snapshot is of another engine; start the chat anew")
        }
        keepRows(snapshot.keptFrom, besides = snapshot)
        fixed.zip(snapshot.fixed) { buffer, saved -> buffer.writeAll(saved) }
        for (piece in snapshot.rows) caches.zip(piece.saved) { buffer, saved -> buffer.writeRows(piece.start, piece.stop, saved) }
        snapshot.keptFrom = snapshot.position
        snapshot.rows.clear()
        return snapshot.position
    }

    /** Before rows from [start] on are overwritten, give the snapshots that still count on them a copy. */
    fun beforeWrite(start: Int) = keepRows(start, besides = null)

    private fun keepRows(start: Int, besides: Saved?) {
        for (snapshot in snapshots) {
            if (snapshot === besides || snapshot.keptFrom <= start) continue
            snapshot.rows += Rows(start, snapshot.keptFrom, caches.map { it.copyRows(start, snapshot.keptFrom) })
            snapshot.keptFrom = start
        }
    }
}
