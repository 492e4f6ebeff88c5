package org.qwenedge.engine

import org.qwenedge.core.artifact.Vision
import org.qwenedge.core.vision.Grid
import org.qwenedge.core.vision.PatchedImage
import org.qwenedge.core.vision.Pixels
import org.qwenedge.core.vision.positions

/** An engine of a model that sees. */
interface SeeingEngine : Engine {
    val vision: Vision

    /** The position of the next token as mRoPE counts: less than its place in the sequence once an image was read. */
    val nextPosition: Int

    /** Run the vision tower on an image; the sequence stays as it is. */
    fun see(image: PatchedImage): SeenImage

    /** Append a prompt, or a piece of one, of at most [prefillChunk] tokens. */
    fun forward(prompt: Prompt): FloatArray
}

/** A picture that may have to be decoded first; asked on the model's thread. */
fun interface Picture {
    /** Upright, 8-bit RGB. */
    fun pixels(): Pixels
}

/** What the vision tower made of one image: a row of features for each token. [digest] names the pixels. */
class SeenImage(val features: FloatArray, val grid: Grid, val digest: String)

/** Tokens with images among them: where each stands, and the features of the image tokens in order. */
class Prompt(val tokens: IntArray, val rows: List<IntArray>, val features: FloatArray, private val vision: Vision) {
    /** Some of the tokens, with what belongs to them. */
    fun cut(start: Int, stop: Int): Prompt {
        val (first, last) = listOf(start, stop).map { end -> (0..<end).count { tokens[it] == vision.imageTokenId } }
        return Prompt(
            tokens = tokens.copyOfRange(start, stop),
            rows = rows.map { it.copyOfRange(start, stop) },
            features = features.copyOfRange(first * vision.hiddenSize, last * vision.hiddenSize),
            vision = vision,
        )
    }
}

/** Tokens to append to the engine's sequence, [images] in the order of their places in it. */
fun SeeingEngine.promptOf(tokens: List<Int>, images: List<SeenImage>): Prompt {
    val rows = positions(tokens, vision.imageTokenId, images.map { it.grid }, nextPosition).rows
    val features = FloatArray(images.sumOf { it.features.size })
    var at = 0
    for (image in images) {
        image.features.copyInto(features, at)
        at += image.features.size
    }
    return Prompt(tokens.toIntArray(), rows, features, vision)
}
