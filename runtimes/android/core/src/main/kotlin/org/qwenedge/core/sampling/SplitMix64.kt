package org.qwenedge.core.sampling

/** Steele, Lea and Flood's generator: one 64-bit counter, mixed; the same numbers as in Python and Swift. */
class SplitMix64(private var state: Long) {
    /** The next 64 bits. */
    fun bits(): Long {
        state += -0x61c8864680b583ebL
        var mixed = state
        mixed = (mixed xor (mixed ushr 30)) * -0x40a7b892e31b1a47L
        mixed = (mixed xor (mixed ushr 27)) * -0x6b2fb644ecceee15L
        return mixed xor (mixed ushr 31)
    }

    /** The next number in [0, 1), a multiple of 2^-53. */
    fun uniform(): Double = (bits() ushr 11) * TWO_TO_MINUS_53

    private companion object {
        const val TWO_TO_MINUS_53 = 1.0 / (1L shl 53)
    }
}
