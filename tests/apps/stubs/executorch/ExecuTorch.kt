package org.pytorch.executorch

import java.io.Closeable

open class Module private constructor() : Closeable {
    open fun execute(methodName: String, vararg inputs: EValue): Array<EValue> = TODO("$methodName $inputs")

    open fun loadMethod(methodName: String): Unit = TODO(methodName)

    open fun destroy() = Unit

    override fun close() = Unit

    companion object {
        const val LOAD_MODE_FILE = 0
        const val LOAD_MODE_MMAP = 1

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module = TODO("$modelPath $loadMode $numThreads")
    }
}

class EValue private constructor() {
    fun toTensor(): Tensor = TODO()

    companion object {
        @JvmStatic fun from(tensor: Tensor): EValue = TODO("$tensor")
    }
}

abstract class Tensor internal constructor() {
    open val dataAsFloatArray: FloatArray get() = TODO()

    companion object {
        @JvmStatic fun fromBlob(data: LongArray, shape: LongArray): Tensor = TODO("$data $shape")

        @JvmStatic fun fromBlob(data: FloatArray, shape: LongArray): Tensor = TODO("$data $shape")

        @JvmStatic fun fromBlobUnsigned(data: ByteArray, shape: LongArray): Tensor = TODO("$data $shape")
    }
}

open class ExecutorchRuntimeException(val errorCode: Int, details: String?) : RuntimeException(details) {
    companion object {
        const val OUT_OF_RESOURCES = 0x25
        const val MEMORY_ALLOCATION_FAILED = 0x21
        const val DELEGATE_MEMORY_ALLOCATION_FAILED = 0x31
    }
}
