package org.qwenedge.core.vision

/**
 * How an image becomes patches: the numbers of a manifest, used as docs/vision.md says.
 *
 * Where there are [grids], rows and columns of tokens, the tower takes these only: every image is resized to one of them.
 */
data class ImageSpec(
    val patchSize: Int,
    val temporalPatchSize: Int,
    val mergeSize: Int,
    val minPixels: Int,
    val maxPixels: Int,
    val mean: List<Double>,
    val std: List<Double>,
    val grids: List<Grid> = emptyList(),
) {
    /** The side of one token in pixels. */
    val factor: Int get() = patchSize * mergeSize
}

/** Rows and columns: of pixels, of patches, or of tokens. */
data class Grid(val height: Int, val width: Int) {
    val cells: Int get() = height * width
}
