package org.qwenedge.engine.onnxruntime

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.LongBuffer
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.Manifest
import org.qwenedge.core.artifact.StateTensor
import org.qwenedge.engine.BaseEngine
import org.qwenedge.engine.SequenceState
import org.qwenedge.engine.Snapshot
import org.qwenedge.engine.StateBuffer
import org.qwenedge.engine.StateMemory

/**
 * One sequence in one ONNX Runtime session, as `runtimes/onnxruntime.py` runs it.
 *
 * All state stays where it is: the same tensor is the input and the pinned output. The KV cache is one buffer, as long as the
 * context, to which GroupQueryAttention appends in place; how much of it is filled it reads from the attention mask.
 */
internal open class OnnxRuntimeEngine(
    manifest: Manifest,
    threads: Int,
    protected val environment: OrtEnvironment,
    private val session: OrtSession,
    memory: StateMemory,
    /** The input that takes the tokens: their ids, or what a graph of its own made of them. */
    private val reads: String = INPUT_IDS,
) : BaseEngine(manifest, threads) {
    private val buffers = manifest.state.map { StateBuffer(it, memory.allocate(it).order(ByteOrder.nativeOrder())) }
    private val state = SequenceState(buffers)
    private val stateTensors = buffers.map { (tensor, memory) ->
        OnnxTensor.createTensor(environment, memory, tensor.shape.toLongArray(), type(tensor))
    }
    private val logits = createLogits()
    private val ids = longs(manifest.prefillChunk)
    private val positions = longs(POSITION_ROWS * manifest.prefillChunk)
    private val mask = longs(manifest.contextLength).apply { for (at in 0..<capacity()) put(at, 1) }
    private val outputs =
        manifest.state.zip(stateTensors) { tensor, value -> outputName(tensor) to value }.toMap() + (LOGITS to logits)

    init {
        val inputs = manifest.state.map(::inputName) + listOf(reads, ATTENTION_MASK, POSITION_IDS)
        checkNames("input", inputs.toSet(), session.inputNames)
        checkNames("output", outputs.keys, session.outputNames)
    }

    override fun run(tokens: IntArray): FloatArray {
        state.beforeWrite(position)
        failing("run ${tokens.size} tokens after $position") {
            withInputs(tokens) { inputs -> session.run(inputs, outputs).close() }
        }
        return FloatArray(vocabSize).also { logits.floatBuffer.get(it) }
    }

    override fun clear() = state.clear()

    override fun remember(): Snapshot = state.snapshot(position)

    override fun recall(snapshot: Snapshot) {
        state.restore(snapshot)
    }

    override fun release() {
        stateTensors.forEach(OnnxTensor::close)
        logits.close()
        session.close()
    }

    /** What the model reads of these tokens; closed after the call. */
    protected open fun read(tokens: IntArray): OnnxTensor = idsTensor(tokens)

    /** The positions of the next tokens: time, height and width, equal for text. */
    protected open fun rows(count: Int): List<IntArray> = List(POSITION_ROWS) { IntArray(count) { position + it } }

    protected fun idsTensor(tokens: IntArray): OnnxTensor {
        for (at in tokens.indices) ids.put(at, tokens[at].toLong())
        return tensor(ids, 1, tokens.size)
    }

    private fun withInputs(tokens: IntArray, action: (Map<String, OnnxTensor>) -> Unit) {
        val count = tokens.size
        rows(count).forEachIndexed { row, places ->
            for (at in 0..<count) positions.put(row * count + at, places[at].toLong())
        }
        val given = mapOf(
            reads to read(tokens),
            POSITION_IDS to tensor(positions, POSITION_ROWS, 1, count),
            ATTENTION_MASK to tensor(mask, 1, position + count),
        )
        try {
            action(given + manifest.state.zip(stateTensors) { tensor, value -> inputName(tensor) to value })
        } finally {
            given.values.forEach(OnnxTensor::close)
        }
    }

    private fun tensor(memory: LongBuffer, vararg shape: Int): OnnxTensor {
        val view = memory.duplicate()
        view.position(0).limit(shape.fold(1, Int::times))
        return OnnxTensor.createTensor(environment, view, LongArray(shape.size) { shape[it].toLong() })
    }

    private fun createLogits(): OnnxTensor {
        val type = (session.outputInfo[LOGITS]?.info as? TensorInfo)?.type
            ?: throw EngineException("the model has no output '$LOGITS'; export it again")
        if (type !in LOGITS_TYPES) {
            throw EngineException("the model's logits are $type, expected one of $LOGITS_TYPES; export it again")
        }
        val memory = ByteBuffer.allocateDirect(vocabSize * type.size).order(ByteOrder.nativeOrder())
        return OnnxTensor.createTensor(environment, memory, longArrayOf(1, 1, vocabSize.toLong()), type)
    }

    private fun checkNames(what: String, wanted: Set<String>, found: Set<String>) {
        val odd = ((wanted - found) + (found - wanted)).minOrNull() ?: return
        throw EngineException("$what '$odd' is in only one of model and manifest; export the model again")
    }

    companion object {
        const val INPUT_IDS = "input_ids"
        private const val ATTENTION_MASK = "attention_mask"
        private const val POSITION_IDS = "position_ids"
        private const val LOGITS = "logits"

        private const val POSITION_ROWS = 3
        private val LOGITS_TYPES = setOf(OnnxJavaType.FLOAT, OnnxJavaType.FLOAT16)

        private fun longs(count: Int): LongBuffer =
            ByteBuffer.allocateDirect(count * Long.SIZE_BYTES).order(ByteOrder.nativeOrder()).asLongBuffer()

        private fun inputName(tensor: StateTensor) = tensor.inputName
            ?: throw EngineException("state '${tensor.name}' has no input; export it again")

        private fun outputName(tensor: StateTensor) = tensor.outputName
            ?: throw EngineException("state '${tensor.name}' has no output; export it again")

        private fun type(tensor: StateTensor): OnnxJavaType = when (tensor.dtype) {
            "float32" -> OnnxJavaType.FLOAT
            "float16" -> OnnxJavaType.FLOAT16
            "int8" -> OnnxJavaType.INT8
            else -> OnnxJavaType.UINT8
        }
    }
}
