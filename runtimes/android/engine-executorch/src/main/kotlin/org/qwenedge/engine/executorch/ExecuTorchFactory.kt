package org.qwenedge.engine.executorch

import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.Module
import org.qwenedge.core.EngineException
import org.qwenedge.core.MemoryException
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.engine.Engine
import org.qwenedge.engine.EngineFactory

/** Opens ExecuTorch artifacts. The library does not tell its version: [version] is that of the dependency. */
class ExecuTorchFactory(override val version: String) : EngineFactory {
    override val runtime = "executorch"

    override fun open(artifact: Artifact, threads: Int): Engine = failing("open ${artifact.modelFile}") {
        val module = Module.load(artifact.modelFile.path, Module.LOAD_MODE_MMAP, threads)
        val vision = artifact.manifest.vision
        // the tower's method is loaded when the first image comes
        module.loadMethod(if (vision == null) ExecuTorchEngine.METHOD else ExecuTorchSeeingEngine.DECODE)
        if (vision == null) ExecuTorchEngine(artifact.manifest, threads, module)
        else ExecuTorchSeeingEngine(artifact.manifest, vision, threads, module)
    }
}

private val MEMORY_ERRORS = setOf(
    ExecutorchRuntimeException.MEMORY_ALLOCATION_FAILED,
    ExecutorchRuntimeException.DELEGATE_MEMORY_ALLOCATION_FAILED,
    ExecutorchRuntimeException.OUT_OF_RESOURCES,
)

/** Calls into ExecuTorch; its errors become ours. */
internal fun <T> failing(what: String, action: () -> T): T = try {
    action()
} catch (error: ExecutorchRuntimeException) {
    val message = "executorch could not $what: ${error.message}"
    if (error.errorCode !in MEMORY_ERRORS) throw EngineException(message, error)
    throw MemoryException("$message; close other apps or choose a smaller model", error)
} catch (error: IllegalArgumentException) {
    throw EngineException("executorch could not $what: ${error.message}", error)
} catch (error: IllegalStateException) {
    throw EngineException("executorch could not $what: ${error.message}", error)
}
