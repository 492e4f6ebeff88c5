package org.qwenedge.core.vision

import kotlin.math.abs

private const val SUPPORT = 2.0
private const val PRECISION_BITS = 22
private const val CHANNELS = 3

/** RGB bytes, row by row. */
class Pixels(val size: Grid, val rgb: ByteArray)

/**
 * Resamples an image with Keys' cubic, rows first, in the integer arithmetic of Pillow: the same bytes.
 *
 * Android's own scaling gives other pixels, and a model that sees is trained on these.
 */
fun resize(image: Pixels, target: Grid): Pixels {
    val narrowed = if (target.width == image.size.width) image else resizeRows(image, target.width)
    return if (target.height == narrowed.size.height) narrowed else resizeColumns(narrowed, target.height)
}

/** What one output pixel is made of: input pixels from [start] on, and the weight of each. */
private class Window(val start: Int, val weights: IntArray)

private fun windows(before: Int, after: Int): List<Window> {
    val ratio = before.toDouble() / after
    val stretch = maxOf(ratio, 1.0)
    return List(after) { index ->
        val centre = (index + 0.5) * ratio
        val start = maxOf((centre - SUPPORT * stretch + 0.5).toInt(), 0)
        val stop = minOf((centre + SUPPORT * stretch + 0.5).toInt(), before)
        val shares = DoubleArray(stop - start) { cubic(abs((start + it - centre + 0.5) / stretch)) }
        val sum = shares.sum()
        Window(start, IntArray(shares.size) { fixedPoint(shares[it] / sum) })
    }
}

private fun cubic(x: Double): Double = when {
    x < 1 -> (1.5 * x - 2.5) * x * x + 1
    x < 2 -> ((-0.5 * x + 2.5) * x - 4) * x + 2
    else -> 0.0
}

/** Halves go away from zero. */
private fun fixedPoint(share: Double): Int = (share * (1 shl PRECISION_BITS) + if (share < 0) -0.5 else 0.5).toInt()

private fun resizeRows(image: Pixels, width: Int): Pixels {
    val windows = windows(image.size.width, width)
    val out = ByteArray(image.size.height * width * CHANNELS)
    var at = 0
    for (row in 0..<image.size.height) {
        for (window in windows) {
            val first = (row * image.size.width + window.start) * CHANNELS
            for (channel in 0..<CHANNELS) out[at++] = level(image.rgb, first + channel, CHANNELS, window)
        }
    }
    return Pixels(Grid(image.size.height, width), out)
}

private fun resizeColumns(image: Pixels, height: Int): Pixels {
    val stride = image.size.width * CHANNELS
    val out = ByteArray(height * stride)
    windows(image.size.height, height).forEachIndexed { row, window ->
        for (place in 0..<stride) out[row * stride + place] = level(image.rgb, window.start * stride + place, stride, window)
    }
    return Pixels(Grid(height, image.size.width), out)
}

private fun level(rgb: ByteArray, first: Int, step: Int, window: Window): Byte {
    var sum = 1 shl (PRECISION_BITS - 1)
    for (index in window.weights.indices) sum += window.weights[index] * (rgb[first + index * step].toInt() and 0xff)
    return (sum shr PRECISION_BITS).coerceIn(0, 255).toByte()
}
