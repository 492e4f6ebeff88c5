import CoreGraphics
import Foundation
import ImageIO
import QwenEdgeCore

/// An image file in memory; decoded when the model wants it, upright, in sRGB.
struct ImageFile: Picture {
    private static let maxPixels = 50_000_000

    let data: Data

    func pixels() throws -> Pixels {
        guard let source = CGImageSourceCreateWithData(data as CFData, nil),
            let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any],
            let width = properties[kCGImagePropertyPixelWidth] as? Int,
            let height = properties[kCGImagePropertyPixelHeight] as? Int
        else { throw Self.unreadable }
        guard width > 0, height > 0, width <= Self.maxPixels / height else {
            throw EdgeError(.image, "the picture has \(width) x \(height) pixels, more than \(Self.maxPixels); choose another one")
        }
        // a thumbnail of full size is the image turned upright
        let options: [CFString: Any] = [
            kCGImageSourceCreateThumbnailFromImageAlways: true, kCGImageSourceCreateThumbnailWithTransform: true,
            kCGImageSourceThumbnailMaxPixelSize: max(width, height),
        ]
        guard let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary) else {
            throw Self.unreadable
        }
        return try Self.rgb(image)
    }

    private static var unreadable: EdgeError {
        EdgeError(.image, "the picture cannot be read; choose another one")
    }

    private static func rgb(_ image: CGImage) throws -> Pixels {
        let (width, height) = (image.width, image.height)
        var rgba = [UInt8](repeating: 0, count: width * height * 4)
        let isDrawn = rgba.withUnsafeMutableBytes { memory in
            guard let space = CGColorSpace(name: CGColorSpace.sRGB),
                let context = CGContext(
                    data: memory.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4,
                    space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            else { return false }
            context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
            return true
        }
        guard isDrawn else { throw unreadable }
        var rgb = [UInt8]()
        rgb.reserveCapacity(width * height * 3)
        for at in stride(from: 0, to: rgba.count, by: 4) { rgb.append(contentsOf: rgba[at..<at + 3]) }
        return try Pixels(size: PixelSize(height: height, width: width), rgb: rgb)
    }
}
