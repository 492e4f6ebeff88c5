package org.qwenedge.core.vision

import org.qwenedge.core.ImageException

/** Positions of tokens in interleaved mRoPE: time, height and width, and where the next token stands. */
class Positions(val rows: List<IntArray>, val next: Int)

/**
 * Where tokens stand when there are images between them; the first stands at [start].
 *
 * Text counts on in all three rows. The tokens of an image share one time; height and width count from there over its
 * [grids] entry; what follows stands behind the longer side. Each run of image tokens is one whole image.
 */
fun positions(tokens: List<Int>, imageTokenId: Int, grids: List<Grid>, start: Int): Positions {
    val rows = List(3) { IntArray(tokens.size) }
    val waiting = ArrayDeque(grids)
    var place = start
    var at = 0
    while (at < tokens.size) {
        if (tokens[at] != imageTokenId) {
            rows.forEach { it[at] = place }
            place++
            at++
            continue
        }
        val count = tokens.drop(at).takeWhile { it == imageTokenId }.size
        val grid = waiting.removeFirstOrNull()
        if (grid == null || grid.cells != count) {
            throw ImageException("$count image tokens in a row do not fit ${grid ?: "any image"}; give each image once")
        }
        for (cell in 0..<count) {
            rows[0][at + cell] = place
            rows[1][at + cell] = place + cell / grid.width
            rows[2][at + cell] = place + cell % grid.width
        }
        place += maxOf(grid.height, grid.width)
        at += count
    }
    if (waiting.isNotEmpty()) {
        throw ImageException("${waiting.size} images more than the prompt has places for; give each image once")
    }
    return Positions(rows, place)
}
