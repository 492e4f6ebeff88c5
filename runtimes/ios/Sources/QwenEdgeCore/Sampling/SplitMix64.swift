/// Steele, Lea and Flood's generator: one 64-bit counter, mixed; the same numbers as in Python and Kotlin.
public struct SplitMix64: Sendable {
    private var state: UInt64

    public init(seed: UInt64) {
        state = seed
    }

    /// The next 64 bits.
    public mutating func bits() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }

    /// The next number in [0, 1), a multiple of 2^-53.
    public mutating func uniform() -> Double {
        Double(bits() >> 11) * 0x1p-53
    }
}
