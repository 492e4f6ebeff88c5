/// Numbers as 16-bit floats, for runtimes that take only those; `Float16` does not exist on every Mac.
public enum Half {
    private static let largest: Float = 65504

    /// The bits of the nearest half, halves to even; beyond the largest is infinite.
    public static func bits(of value: Float) -> UInt16 {
        let sign = UInt16(truncatingIfNeeded: value.bitPattern >> 16) & 0x8000
        let magnitude = value.magnitude
        if magnitude.isNaN { return sign | 0x7E00 }
        if magnitude >= largest + 16 { return sign | 0x7C00 }
        // a half has 10 bits behind the point, and no exponent below -14
        let exponent = max(magnitude.isZero ? -14 : magnitude.exponent, -14)
        let scaled = (magnitude * Float(sign: .plus, exponent: 10 - Int(exponent), significand: 1)).rounded(.toNearestOrEven)
        // where the exponent is -14 and less than 1024 is left, this is what stands for a number below the normal ones
        return sign | UInt16(exponent + 15) << 10 + UInt16(scaled) - 1024
    }

    /// The number that 16 bits stand for.
    public static func value(of bits: UInt16) -> Float {
        let sign: Float = bits & 0x8000 == 0 ? 1 : -1
        let exponent = Int(bits >> 10 & 0x1F), fraction = Float(bits & 0x3FF)
        switch exponent {
        case 0: return sign * fraction * Float(sign: .plus, exponent: -24, significand: 1)
        case 0x1F: return fraction.isZero ? sign * .infinity : .nan
        default: return sign * Float(sign: .plus, exponent: exponent - 25, significand: 1024 + fraction)
        }
    }
}
