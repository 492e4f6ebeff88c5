package org.qwenedge.engine.onnxruntime

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.Manifest
import org.qwenedge.core.artifact.Vision
import org.qwenedge.core.vision.Grid
import org.qwenedge.core.vision.PatchedImage
import org.qwenedge.engine.Prompt
import org.qwenedge.engine.SeeingEngine
import org.qwenedge.engine.SeenImage
import org.qwenedge.engine.Sight
import org.qwenedge.engine.Snapshot
import org.qwenedge.engine.StateMemory

/**
 * One sequence of tokens and images, as `runtimes/onnxruntime.py` runs it.
 *
 * A model that sees comes as three graphs over one data file: the text model reads embeddings, which a second graph makes of
 * tokens and image features, which a third, the tower, makes of patches. The tower is opened when the first image comes.
 */
internal class OnnxSeeingEngine(parts: Parts, threads: Int, environment: OrtEnvironment, memory: StateMemory) :
    OnnxRuntimeEngine(parts.manifest, threads, environment, parts.text, memory, reads = EMBEDDINGS),
    SeeingEngine {
    /** The graphs; the tower is opened by a call. */
    class Parts(
        val manifest: Manifest,
        val vision: Vision,
        val text: OrtSession,
        val embedding: OrtSession,
        val openTower: () -> OrtSession,
    )

    private class Seeing(val state: Snapshot, val lag: Int) : Snapshot {
        override val position get() = state.position
    }

    override val vision = parts.vision
    private val embedding = parts.embedding
    private val tower = lazy(parts.openTower)
    private val sight = Sight(vision)

    override val nextPosition get() = position - sight.lag

    override fun see(image: PatchedImage): SeenImage {
        sight.checkSize(image)
        val features = failing("encode ${image.grid.cells} patches") { encode(image) }
        return SeenImage(features, image.tokens, image.digest)
    }

    override fun forward(prompt: Prompt): FloatArray = sight.read(this, prompt, ::forward)

    override fun read(tokens: IntArray): OnnxTensor {
        sight.check(tokens)
        val features = sight.piece?.features ?: NOTHING_SEEN
        val shape = longArrayOf(features.size.toLong() / vision.hiddenSize, vision.hiddenSize.toLong())
        return idsTensor(tokens).use { ids ->
            OnnxTensor.createTensor(environment, floats(features), shape).use { seen ->
                embedding.run(mapOf(INPUT_IDS to ids, FEATURES to seen)).use { result ->
                    val rows = longArrayOf(1, tokens.size.toLong(), vision.hiddenSize.toLong())
                    OnnxTensor.createTensor(environment, floats(values(result)), rows)
                }
            }
        }
    }

    override fun rows(count: Int): List<IntArray> = sight.piece?.rows ?: List(ROWS) { IntArray(count) { nextPosition + it } }

    override fun clear() {
        super.clear()
        sight.lag = 0
    }

    override fun remember(): Snapshot = Seeing(super.remember(), sight.lag)

    override fun recall(snapshot: Snapshot) {
        if (snapshot !is Seeing) throw EngineException("this snapshot is of another engine; start the chat anew")
        super.recall(snapshot.state)
        sight.lag = snapshot.lag
    }

    override fun release() {
        super.release()
        embedding.close()
        if (tower.isInitialized()) tower.value.close()
    }

    private fun encode(image: PatchedImage): FloatArray {
        val width = image.patches.size / image.grid.cells
        val shape = longArrayOf(image.grid.cells.toLong(), width.toLong())
        return OnnxTensor.createTensor(environment, floats(image.patches), shape).use { patches ->
            OnnxTensor.createTensor(environment, gridOf(image.grid), longArrayOf(1, ROWS.toLong())).use { grid ->
                tower.value.run(mapOf(PIXELS to patches, GRID to grid)).use(::values)
            }
        }
    }

    private companion object {
        const val EMBEDDINGS = "inputs_embeds"
        const val FEATURES = "image_features"
        const val PIXELS = "pixel_values"
        const val GRID = "image_grid_thw"
        const val ROWS = 3
        val NOTHING_SEEN = FloatArray(0)

        fun floats(values: FloatArray): FloatBuffer {
            // never of no bytes at all: an empty direct buffer has no address
            val memory = ByteBuffer.allocateDirect(maxOf(1, values.size) * Float.SIZE_BYTES).order(ByteOrder.nativeOrder())
            val view = memory.asFloatBuffer().put(values)
            view.flip()
            return view
        }

        fun gridOf(grid: Grid): LongBuffer {
            val memory = ByteBuffer.allocateDirect(ROWS * Long.SIZE_BYTES).order(ByteOrder.nativeOrder()).asLongBuffer()
            return memory.put(0, 1).put(1, grid.height.toLong()).put(2, grid.width.toLong())
        }

        fun values(result: OrtSession.Result): FloatArray {
            val found = (result.get(0) as OnnxTensor).floatBuffer
            return FloatArray(found.remaining()).also(found::get)
        }
    }
}
