package org.qwenedge.engine.onnxruntime

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import java.io.File
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

    override fun open(artifact: Artifact, threads: Int): Engine {
        val vision = artifact.manifest.vision
        val text = session(artifact.modelFile, threads)
        if (vision == null) return OnnxRuntimeEngine(artifact.manifest, threads, environment, text, memory)
        val embedding = session(artifact.file(vision.embeddingFile), threads)
        val parts = OnnxSeeingEngine.Parts(artifact.manifest, vision, text, embedding) {
            session(artifact.file(vision.towerFile), threads)
        }
        return OnnxSeeingEngine(parts, threads, environment, memory)
    }

    private fun session(model: File, threads: Int): OrtSession = failing("open $model") {
        val options = OrtSession.SessionOptions()
        options.setIntraOpNumThreads(threads)
        options.setInterOpNumThreads(1)
        options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR)
        // memory is planned per shape, and every prefill length is a new shape
        options.setMemoryPatternOptimization(false)
        environment.createSession(model.path, options)
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
