package org.qwenedge.core.vision

import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.sqrt
import org.qwenedge.core.ImageException

private const val MAX_ASPECT_RATIO = 200

/** The size of an image after resizing: the ratio kept as well as multiples of a token's side can. */
fun targetSize(image: Grid, spec: ImageSpec): Grid {
    if (maxOf(image.height, image.width) > MAX_ASPECT_RATIO * minOf(image.height, image.width)) {
        throw ImageException("an image of ${image.height} x ${image.width} is too long; cut it")
    }
    val factor = spec.factor
    val nearest = Grid(nearest(image.height, factor), nearest(image.width, factor))
    val pixels = image.height.toDouble() * image.width
    return when {
        nearest.height.toLong() * nearest.width > spec.maxPixels -> {
            val shrink = sqrt(pixels / spec.maxPixels)
            Grid(below(image.height, shrink, factor), below(image.width, shrink, factor))
        }
        nearest.height.toLong() * nearest.width < spec.minPixels -> {
            val grow = sqrt(spec.minPixels / pixels)
            Grid(above(image.height, grow, factor), above(image.width, grow, factor))
        }
        else -> nearest
    }
}

/** Halves go to the even neighbour. */
private fun nearest(side: Int, factor: Int): Int = Math.rint(side.toDouble() / factor).toInt() * factor

private fun below(side: Int, shrink: Double, factor: Int): Int =
    maxOf(factor, floor(side / shrink / factor).toInt() * factor)

private fun above(side: Int, grow: Double, factor: Int): Int = ceil(side * grow / factor).toInt() * factor
