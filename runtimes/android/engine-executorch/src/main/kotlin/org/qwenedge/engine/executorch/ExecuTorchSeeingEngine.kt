package org.qwenedge.engine.executorch

import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.Manifest
import org.qwenedge.core.artifact.Vision
import org.qwenedge.core.vision.PatchedImage
import org.qwenedge.core.vision.Pixels
import org.qwenedge.engine.BaseEngine
import org.qwenedge.engine.Prompt
import org.qwenedge.engine.SeeingEngine
import org.qwenedge.engine.SeenImage
import org.qwenedge.engine.Sight
import org.qwenedge.engine.Snapshot

/**
 * One sequence of tokens and images in one ExecuTorch program, in the three methods that its own multimodal runner calls.
 *
 * `vision_encoder` and `token_embedding` make rows, `text_decoder` reads them; a row says itself where it stands, so no
 * positions are given. The state lives inside the program: a snapshot remembers what was read, and going back reads it again.
 */
internal class ExecuTorchSeeingEngine(
    manifest: Manifest,
    override val vision: Vision,
    threads: Int,
    private val module: Module,
) : BaseEngine(manifest, threads), SeeingEngine {
    /** What one call read: tokens, and the features of the images among them. */
    private class Read(val tokens: IntArray, val features: FloatArray)

    private class Remembered(val reads: List<Read>, override val position: Int, val lag: Int) : Snapshot

    private val reads = ArrayList<Read>()
    private val sight = Sight(vision)
    private var place = 0

    override val nextPosition get() = position - sight.lag

    override fun see(image: PatchedImage): SeenImage {
        sight.checkSize(image)
        val size = image.pixels.size
        val features = failing("encode an image of ${size.width} x ${size.height} pixels") {
            val shape = longArrayOf(CHANNELS.toLong(), size.height.toLong(), size.width.toLong())
            module.call(ENCODE, Tensor.fromBlobUnsigned(planes(image.pixels), shape))
        }
        if (features.size != image.tokens.cells * vision.hiddenSize) {
            throw EngineException("the tower gave ${features.size} numbers for ${image.tokens.cells} tokens; export it again")
        }
        return SeenImage(features, image.tokens, image.digest)
    }

    override fun forward(prompt: Prompt): FloatArray = sight.read(this, prompt, ::forward)

    override fun run(tokens: IntArray): FloatArray {
        sight.check(tokens)
        return run(Read(tokens, sight.piece?.features ?: NOTHING_SEEN))
    }

    override fun clear() {
        reads.clear()
        place = 0
        sight.lag = 0
    }

    override fun remember(): Snapshot = Remembered(reads.toList(), position, sight.lag)

    override fun recall(snapshot: Snapshot) {
        val wanted = snapshot as? Remembered ?: throw EngineException("this snapshot is of another engine; start the chat anew")
        clear()
        wanted.reads.forEach(::run)
        sight.lag = wanted.lag
    }

    override fun release() = module.destroy()

    private fun run(read: Read): FloatArray = failing("run ${read.tokens.size} tokens after $place") {
        val count = read.tokens.size
        val ids = Tensor.fromBlob(LongArray(count) { read.tokens[it].toLong() }, longArrayOf(1, count.toLong()))
        val rows = module.call(EMBED, ids)
        read.tokens.indices.filter { read.tokens[it] == vision.imageTokenId }.forEachIndexed { image, at ->
            read.features.copyInto(rows, at * vision.hiddenSize, image * vision.hiddenSize, (image + 1) * vision.hiddenSize)
        }
        val embedded = Tensor.fromBlob(rows, longArrayOf(1, count.toLong(), vision.hiddenSize.toLong()))
        val logits = module.call(DECODE, embedded, Tensor.fromBlob(longArrayOf(place.toLong()), longArrayOf(1)))
        place += count
        reads += read
        logits.copyOfRange(logits.size - vocabSize, logits.size)
    }

    companion object {
        private const val ENCODE = "vision_encoder"
        private const val EMBED = "token_embedding"
        const val DECODE = "text_decoder"
        private const val CHANNELS = 3
        private val NOTHING_SEEN = FloatArray(0)

        /** Red, green and blue one after the other. */
        private fun planes(image: Pixels): ByteArray {
            val cells = image.size.cells
            return ByteArray(CHANNELS * cells) { at -> image.rgb[at % cells * CHANNELS + at / cells] }
        }

        private fun Module.call(method: String, vararg inputs: Tensor): FloatArray =
            execute(method, *Array(inputs.size) { EValue.from(inputs[it]) }).single().toTensor().dataAsFloatArray
    }
}
