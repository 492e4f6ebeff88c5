package org.qwenedge.engine

import java.nio.ByteBuffer
import kotlin.random.Random
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.StateTensor

class SequenceStateTest {
    private val fixed = buffer("recurrent", listOf(1, 2, 3), tokenAxis = null)
    private val cache = buffer("key", listOf(1, 2, ROWS.toLong(), 4), tokenAxis = 2)
    private val state = SequenceState(listOf(fixed, cache))

    @Test
    fun `snapshots bring back what was there, in any order and however often`() {
        val random = Random(7)
        val history = ArrayList<Pair<Snapshot, List<ByteArray>>>()
        var position = 0
        repeat(400) {
            when (random.nextInt(4)) {
                0, 1 -> if (position < ROWS) position = write(random, position, random.nextInt(1, ROWS - position + 1))
                2 -> history += state.snapshot(position) to visible(position)
                else -> history.randomOrNull(random)?.let { (snapshot, wanted) ->
                    position = state.restore(snapshot)
                    visible(position).zip(wanted) { found, kept -> assertContentEquals(kept, found) }
                }
            }
        }
    }

    @Test
    fun `a snapshot of another engine is refused`() {
        val stranger = SequenceState(listOf(fixed)).snapshot(3)
        assertFailsWith<EngineException> { state.restore(stranger) }
    }

    @Test
    fun `clearing zeroes the fixed states`() {
        write(Random(1), 0, 2)
        state.clear()
        assertEquals(0, fixed.copyAll().sum())
    }

    /** What a model does: it changes all of the fixed state and writes rows at its position. */
    private fun write(random: Random, position: Int, count: Int): Int {
        state.beforeWrite(position)
        fixed.writeAll(random.nextBytes(fixed.memory.capacity()))
        cache.writeRows(position, position + count, random.nextBytes(2 * count * 4 * 4))
        return position + count
    }

    private fun visible(position: Int) = listOf(fixed.copyAll(), cache.copyRows(0, position))

    private fun buffer(kind: String, shape: List<Long>, tokenAxis: Int?): StateBuffer {
        val bytes = shape.fold(4L, Long::times)
        val tensor = StateTensor("x.$kind", kind, 0, shape, "float32", bytes, inputName = null, outputName = null, tokenAxis)
        return StateBuffer(tensor, ByteBuffer.allocateDirect(bytes.toInt()))
    }

    private companion object {
        const val ROWS = 24
    }
}
