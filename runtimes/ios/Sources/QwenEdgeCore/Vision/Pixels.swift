import Foundation

/// An image of 8-bit red, green and blue, row by row.
public struct Pixels: Equatable, Sendable {
    private static let channels = 3

    public let size: PixelSize
    public let rgb: [UInt8]

    public init(size: PixelSize, rgb: [UInt8]) throws {
        guard size.height > 0, size.width > 0, rgb.count == size.height * size.width * Self.channels else {
            throw EdgeError(.image, "\(rgb.count) bytes are no image of \(size.width) x \(size.height) pixels")
        }
        self.size = size
        self.rgb = rgb
    }

    /// The image in another size, bicubic with the filter widened where it shrinks: Pillow's `resize`, byte for byte.
    public func resized(to target: PixelSize) throws -> Pixels {
        if target == size { return self }
        var bytes = rgb
        if target.width != size.width {
            let filter = ResizeFilter(from: size.width, to: target.width)
            bytes = filter.applied(to: bytes, lines: size.height, step: Self.channels, lineStep: size.width * Self.channels)
        }
        if target.height != size.height {
            bytes = transposed(bytes, size.height, target.width)
            let filter = ResizeFilter(from: size.height, to: target.height)
            let lineStep = size.height * Self.channels
            bytes = filter.applied(to: bytes, lines: target.width, step: Self.channels, lineStep: lineStep)
            bytes = transposed(bytes, target.width, target.height)
        }
        return try Pixels(size: target, rgb: bytes)
    }

    /// Rows become columns, so that one pass works along both sides.
    private func transposed(_ bytes: [UInt8], _ rows: Int, _ columns: Int) -> [UInt8] {
        var found = [UInt8](repeating: 0, count: bytes.count)
        for row in 0..<rows {
            for column in 0..<columns {
                for channel in 0..<Self.channels {
                    found[(column * rows + row) * Self.channels + channel] =
                        bytes[(row * columns + column) * Self.channels + channel]
                }
            }
        }
        return found
    }
}

/// The weights of one side's pixels in each new pixel, in Pillow's fixed point.
private struct ResizeFilter {
    private static let reach = 2.0  // of the bicubic filter, in pixels
    private static let bits = 22  // of a weight behind the point

    private let taps: [(start: Int, weights: [Int])]

    init(from length: Int, to newLength: Int) {
        let scale = Double(length) / Double(newLength)
        let widening = max(scale, 1)
        taps = (0..<newLength).map { place in
            let center = (Double(place) + 0.5) * scale
            let start = max(0, Int(center - Self.reach * widening + 0.5))
            let end = min(length, Int(center + Self.reach * widening + 0.5))
            let weights = (start..<end).map { Self.bicubic((Double($0) - center + 0.5) / widening) }
            let total = weights.reduce(0, +)
            return (
                start,
                weights.map { weight in
                    let scaled = weight / total * Double(1 << Self.bits)
                    return Int(scaled < 0 ? scaled - 0.5 : scaled + 0.5)
                }
            )
        }
    }

    /// New lines of pixels; `step` bytes a pixel, `lineStep` bytes an old line.
    func applied(to bytes: [UInt8], lines: Int, step: Int, lineStep: Int) -> [UInt8] {
        var found: [UInt8] = []
        found.reserveCapacity(lines * taps.count * step)
        for line in 0..<lines {
            for tap in taps {
                for channel in 0..<step {
                    var sum = 1 << (Self.bits - 1)
                    for (index, weight) in tap.weights.enumerated() {
                        sum += Int(bytes[line * lineStep + (tap.start + index) * step + channel]) * weight
                    }
                    found.append(UInt8(clamping: sum >> Self.bits))
                }
            }
        }
        return found
    }

    /// Keys' cubic convolution with a = -0.5.
    private static func bicubic(_ place: Double) -> Double {
        let x = abs(place), a = -0.5
        if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
        return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
    }
}
