package org.qwenedge.engine

import org.qwenedge.core.ImageException
import org.qwenedge.core.artifact.Vision
import org.qwenedge.core.vision.PatchedImage

/** What engines that see have in common: how far positions lag behind places, and the piece of a prompt that is being read. */
class Sight(private val vision: Vision) {
    /** By how much positions are behind places in the sequence. */
    var lag = 0

    /** The prompt that the tokens of this call belong to; null for plain text. */
    var piece: Prompt? = null
        private set

    /** Append a piece of a prompt; [forward] appends its tokens. */
    fun read(engine: SeeingEngine, prompt: Prompt, forward: (IntArray) -> FloatArray): FloatArray {
        piece = prompt
        try {
            val next = maxOf(engine.nextPosition, prompt.rows.maxOf { it.max() } + 1)
            return forward(prompt.tokens).also { lag = engine.position - next }
        } finally {
            piece = null
        }
    }

    /** Refuse image tokens that came without an image. */
    fun check(tokens: IntArray) {
        if (piece == null && vision.imageTokenId in tokens) throw ImageException("image tokens without an image")
    }

    /** Refuse an image that is larger than the tower takes. */
    fun checkSize(image: PatchedImage) {
        val patches = image.grid.cells
        if (patches.toLong() * vision.images.patchSize * vision.images.patchSize > vision.images.maxPixels) {
            throw ImageException("an image of $patches patches is larger than max_pixels ${vision.images.maxPixels} allows")
        }
    }
}
