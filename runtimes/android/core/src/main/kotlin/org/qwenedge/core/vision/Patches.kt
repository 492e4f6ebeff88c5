package org.qwenedge.core.vision

import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.qwenedge.core.artifact.sha256Of

private const val CHANNELS = 3
private const val LEVELS = 255.0

/** What the vision tower reads: a row of numbers for each patch of [grid], or the resized [pixels], where it cuts them itself. */
class PatchedImage(val grid: Grid, val patches: FloatArray, val pixels: Pixels, private val spec: ImageSpec) {
    /** Rows and columns of the tokens that the image takes. */
    val tokens: Grid get() = Grid(grid.height / spec.mergeSize, grid.width / spec.mergeSize)

    /** Names the pixels. */
    val digest: String by lazy {
        val bytes = ByteBuffer.allocate(patches.size * Float.SIZE_BYTES).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(patches)
        sha256Of(bytes.array())
    }
}

/** Resize, normalise and cut an upright RGB image. */
fun patchImage(image: Pixels, spec: ImageSpec): PatchedImage {
    val resized = resize(image, targetSize(image.size, spec))
    val grid = Grid(resized.size.height / spec.patchSize, resized.size.width / spec.patchSize)
    return PatchedImage(grid, Cutter(resized, spec).cut(grid), resized, spec)
}

/**
 * Cuts patches in blocks of mergeSize x mergeSize, since the merger makes one token of a block: blocks row by row, in a block
 * row by row. A patch is flat: channel, then frame (a still image stands in each), then row, then column.
 */
private class Cutter(private val image: Pixels, private val spec: ImageSpec) {
    // value / 255, minus the mean, by the standard deviation, as one product and one difference in float32
    private val scale = spec.std.map { (1 / (LEVELS * it)).toFloat() }
    private val shift = spec.mean.zip(spec.std) { mean, std -> (mean / std).toFloat() }
    private val out = FloatArray(image.rgb.size * spec.temporalPatchSize)
    private var at = 0

    fun cut(grid: Grid): FloatArray {
        for (blockRow in 0..<grid.height step spec.mergeSize) {
            for (blockColumn in 0..<grid.width step spec.mergeSize) {
                for (row in blockRow..<blockRow + spec.mergeSize) {
                    for (column in blockColumn..<blockColumn + spec.mergeSize) addPatch(row * spec.patchSize, column * spec.patchSize)
                }
            }
        }
        return out
    }

    private fun addPatch(top: Int, left: Int) {
        for (channel in 0..<CHANNELS) {
            repeat(spec.temporalPatchSize) {
                for (row in top..<top + spec.patchSize) {
                    for (column in left..<left + spec.patchSize) out[at++] = value(row, column, channel)
                }
            }
        }
    }

    private fun value(row: Int, column: Int, channel: Int): Float {
        val level = image.rgb[(row * image.size.width + column) * CHANNELS + channel].toInt() and 0xff
        return level * scale[channel] - shift[channel]
    }
}
