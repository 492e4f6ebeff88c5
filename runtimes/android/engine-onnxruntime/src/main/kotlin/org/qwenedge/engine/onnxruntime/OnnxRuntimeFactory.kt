package org.qwenedge.engine.onnxruntime

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import org.qwenedge.core.EngineException
import org.qwenedge.core.MemoryException
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.engine.Engine
import org.qwenedge.engine.EngineFactory
import org.qwenedge.engine.StateMemory

/** Opens ONNX artifacts in ONNX Runtime. [memory] holds the state of a sequence. */
class OnnxRuntimeFactory(private val memory: StateMemory) : EngineFactory {
    private val environment = OrtEnvironment.getEnvironment().apply { setTelemetry(false) }
    override val runtime = "onnxruntime"
    override val version: String get() = environment.version

    override fun open(artifact: Artifact, threads: Int): Engine = failing("open ${artifact.modelFile}") {
        val options = OrtSession.SessionOptions()
        options.setIntraOpNumThreads(threads)
        options.setInterOpNumThreads(1)
        options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR)
        // memory is planned per shape, and every prefill length is a new shape
        options.setMemoryPatternOptimization(false)
        val session = environment.createSession(artifact.modelFile.path, options)
        OnnxRuntimeEngine(artifact.manifest, threads, environment, session, memory)
    }
}

private val MEMORY_ERRORS = listOf("bad_alloc", "Failed to allocate")

/** Calls into ONNX Runtime; its errors become ours. */
internal fun <T> failing(what: String, action: () -> T): T = try {
    action()
} catch (error: OrtException) {
    val reason = error.message.orEmpty().lineSequence().first()
    val message = "onnxruntime could not $what: $reason"
    if (MEMORY_ERRORS.none(reason::contains)) throw EngineException(message, error)
    throw MemoryException("$message; close other apps or choose a smaller model", error)
}
