package org.qwenedge.core

import java.util.Base64
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.qwenedge.core.vision.Grid
import org.qwenedge.core.vision.ImageSpec
import org.qwenedge.core.vision.Pixels
import org.qwenedge.core.vision.patchImage
import org.qwenedge.core.vision.positions
import org.qwenedge.core.vision.resize
import org.qwenedge.core.vision.targetSize

class VisionTest {
    private val golden = Golden.read("images.json")

    @Test
    fun `images get the sizes of Python`() {
        val family = spec(golden.map("family"))
        for ((height, width, rows, columns) in grids(golden, "sizes")) {
            assertEquals(Grid(rows, columns), targetSize(Grid(height, width), family))
        }
        val fixed = family.copy(grids = grids(golden, "fixed_grids").map { (height, width) -> Grid(height, width) })
        for ((height, width, rows, columns) in grids(golden, "fixed_sizes")) {
            assertEquals(Grid(rows, columns), targetSize(Grid(height, width), fixed))
        }
        for ((height, width) in grids(golden, "refused_sizes")) {
            assertFailsWith<ImageException> { targetSize(Grid(height, width), family) }
        }
    }

    @Test
    fun `images become the pixels and patches of Python`() {
        val small = spec(golden.map("small"))
        for (case in golden.objects("images")) {
            val image = Pixels(Grid(case.int("height"), case.int("width")), bytes(case, "rgb"))
            val target = Grid(case.int("resized_height"), case.int("resized_width"))
            assertContentEquals(bytes(case, "resized_rgb"), resize(image, target).rgb, case.text("name"))
            val patched = patchImage(image, small)
            assertEquals(case.ints("grid"), listOf(patched.grid.height, patched.grid.width))
            (case["patches"] as List<*>).flatMap { it as List<*> }.forEachIndexed { at, value ->
                assertEquals((value as Number).toFloat(), patched.patches[at])
            }
        }
    }

    @Test
    fun `tokens stand where they stand in Python`() {
        val vectors = Golden.read("image_positions.json")
        for (case in vectors.objects("cases")) {
            val found = place(case)
            assertEquals(case["rows"], found.rows.map { row -> row.map(Int::toLong) }, case.text("name"))
            assertEquals(case.int("next"), found.next)
        }
        for (case in vectors.objects("refused")) assertFailsWith<ImageException>(case.text("name")) { place(case) }
    }

    private fun place(case: Map<*, *>) = positions(
        tokens = case.ints("tokens"),
        imageTokenId = case.int("image_token_id"),
        grids = grids(case, "grids").map { (height, width) -> Grid(height, width) },
        start = case.int("start"),
    )

    private fun grids(case: Map<*, *>, name: String) =
        (case[name] as List<*>).map { row -> (row as List<*>).map { (it as Long).toInt() } }

    private fun bytes(case: Map<*, *>, name: String): ByteArray = Base64.getDecoder().decode(case.text(name))

    private fun spec(fields: Map<*, *>) = ImageSpec(
        fields.int("patch_size"), fields.int("temporal_patch_size"), fields.int("merge_size"),
        fields.int("min_pixels"), fields.int("max_pixels"), fields.doubles("mean"), fields.doubles("std"),
    )
}
