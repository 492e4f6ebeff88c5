package org.qwenedge.core.vision

import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.sqrt
import org.qwenedge.core.ImageException

private const val MAX_ASPECT_RATIO = 200

/** The size of an image after resizing: the free size, or of the spec's grids the nearest. */
fun targetSize(image: Grid, spec: ImageSpec): Grid {
    val free = freeSize(image, spec)
    if (spec.grids.isEmpty()) return free
    val grid = nearestGrid(image, free.cells / (spec.factor * spec.factor), spec.grids)
    return Grid(grid.height * spec.factor, grid.width * spec.factor)
}

/** The grid that bends an image least; among equals the one nearest to so many tokens, then the first. */
private fun nearestGrid(image: Grid, tokens: Int, grids: List<Grid>): Grid = grids.minWith(
    compareBy(
        { quotient(image.height.toLong() * it.width, image.width.toLong() * it.height) },
        { quotient(it.cells.toLong(), tokens.toLong()) },
    ),
)

private fun quotient(one: Long, other: Long): Double = maxOf(one, other).toDouble() / minOf(one, other)

/** The size for a tower that takes any: the ratio kept as well as multiples of a token's side can. */
private fun freeSize(image: Grid, spec: ImageSpec): Grid {
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
