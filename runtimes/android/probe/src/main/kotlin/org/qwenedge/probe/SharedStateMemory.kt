package org.qwenedge.probe

import android.os.SharedMemory
import android.system.ErrnoException
import java.nio.ByteBuffer
import org.qwenedge.core.MemoryException
import org.qwenedge.core.artifact.StateTensor
import org.qwenedge.engine.StateMemory

/**
 * Memory for the state of a sequence that does not count against the small heap of Java.
 *
 * The kernel gives its pages as they are touched, so a KV cache for a long context takes little in a short chat.
 */
class SharedStateMemory : StateMemory {
    override fun allocate(tensor: StateTensor): ByteBuffer = try {
        val memory = SharedMemory.create(tensor.name, Math.toIntExact(tensor.bytes))
        // the mapping keeps the memory alive; the descriptor is not needed any more
        memory.use { it.mapReadWrite() }
    } catch (error: ErrnoException) {
        throw MemoryException("no memory for ${tensor.bytes} bytes of state; close other apps or choose a smaller model", error)
    } catch (error: ArithmeticException) {
        throw MemoryException("${tensor.bytes} bytes of state in one piece; export with a shorter --context-length", error)
    }
}
