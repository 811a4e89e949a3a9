// What the kit draws a decoded picture with. The pixels come from ImageIO's stand-in, as stored and as sRGB.
@_exported import CoreVideo

public final class CGColorSpace: @unchecked Sendable {
    public static let sRGB = CFString("kCGColorSpaceSRGB")
    public static let itur_2100_PQ = CFString("kCGColorSpaceITUR_2100_PQ")

    public let name: CFString?

    public init?(name: CFString) { self.name = name }
}

public func CGColorSpaceUsesITUR_2100TF(_ s: CGColorSpace) -> Bool { s.name == CGColorSpace.itur_2100_PQ }

public enum CGImageAlphaInfo: UInt32, Sendable {
    case noneSkipLast = 5
}

public enum CGInterpolationQuality: Int32, Sendable {
    case `default` = 0
    case none = 1
}

public final class CGImage: @unchecked Sendable {
    public let width: Int
    public let height: Int
    public let colorSpace: CGColorSpace?
    /// Red, green, blue, alpha of each pixel, in sRGB.
    let converted: [UInt8]
    /// The same as the file has them.
    let stored: [UInt8]

    public init(standIn stored: [UInt8], converted: [UInt8], width: Int, height: Int) {
        self.width = width
        self.height = height
        self.stored = stored
        self.converted = converted
        colorSpace = CGColorSpace(name: CGColorSpace.sRGB)
    }
}

public final class CGContext {
    public var interpolationQuality: CGInterpolationQuality = .default
    private let memory: UnsafeMutableRawPointer
    private let (width, height, bytesPerRow): (Int, Int, Int)
    private let space: CGColorSpace

    /// Only what the kit asks for: 8 bits, four bytes a pixel, opaque.
    public init?(
        data: UnsafeMutableRawPointer?,
        width: Int,
        height: Int,
        bitsPerComponent: Int,
        bytesPerRow: Int,
        space: CGColorSpace,
        bitmapInfo: UInt32
    ) {
        let isKnown = bitsPerComponent == 8 && bitmapInfo == CGImageAlphaInfo.noneSkipLast.rawValue
        guard let data, isKnown, width > 0, height > 0, bytesPerRow >= 4 * width else { return nil }
        memory = data
        (self.width, self.height, self.bytesPerRow) = (width, height, bytesPerRow)
        self.space = space
    }

    /// Lays the picture over what is there. A rectangle of another size would have to be scaled: a trap here.
    public func draw(_ image: CGImage, in rect: CGRect, byTiling: Bool = false) {
        precondition(rect == CGRect(x: 0, y: 0, width: image.width, height: image.height), "scaling is not known")
        let pixels = space.name == CGColorSpace.sRGB ? image.converted : image.stored
        for row in 0..<min(height, image.height) {
            for column in 0..<min(width, image.width) {
                let from = 4 * (row * image.width + column)
                let to = memory + row * bytesPerRow + 4 * column
                let alpha = Int(pixels[from + 3])
                for channel in 0..<3 {
                    let below = Int(to.load(fromByteOffset: channel, as: UInt8.self))
                    let mixed = (Int(pixels[from + channel]) * alpha + below * (255 - alpha) + 127) / 255
                    to.storeBytes(of: UInt8(mixed), toByteOffset: channel, as: UInt8.self)
                }
            }
        }
    }
}

@available(*, unavailable)
extension CGContext: @unchecked Sendable {}
