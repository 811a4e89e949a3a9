import Foundation

/// Width and height of a frame in pixels.
public struct FrameSize: Codable, Equatable, Hashable, Sendable {
    /// The side of one patch of most models: both sides of the input are multiples of it. `Preprocess.patch` has that
    /// of a kit.
    public static let patch = 14
    /// No model's input has a longer side.
    static let longestSide = 1 << 14

    /// Pixels from left to right.
    public let width: Int
    /// Pixels from top to bottom.
    public let height: Int

    /// - Parameters:
    ///   - width: Pixels from left to right.
    ///   - height: Pixels from top to bottom.
    public init(width: Int, height: Int) {
        self.width = width
        self.height = height
    }

    /// The number of pixels: 0 where a side is below 1, `Int.max` where no `Int` holds the product.
    public var pixelCount: Int {
        guard width > 0, height > 0 else { return 0 }
        let (product, overflow) = width.multipliedReportingOverflow(by: height)
        return overflow ? .max : product
    }

    /// Whether both sides are made of whole patches of 14 pixels.
    public var isWholePatches: Bool { isMade(ofPatches: Self.patch) }

    func isMade(ofPatches patch: Int) -> Bool {
        patch > 0 && width >= patch && height >= patch && width % patch == 0 && height % patch == 0
    }

    /// The size of whole patches that best keeps the aspect ratio of a frame.
    ///
    /// The longer side becomes the largest multiple of 14 within `longSide`; the shorter one the multiple of 14 whose
    /// aspect ratio is nearest in the logarithm. It is what the exporter chooses for `--resolution`.
    /// - Throws: `KitError` for a frame without pixels, or a long side under one patch or beyond any model's.
    public static func fitting(_ frame: FrameSize, longSide: Int) throws -> FrameSize {
        guard frame.width > 0, frame.height > 0, (patch...longestSide).contains(longSide) else {
            throw KitError(
                .wrongInput,
                "a frame of \(frame) has no size within \(longSide) pixels",
                remedy: "give a frame of at least 1 x 1 pixel and a long side from \(patch) to \(longestSide)"
            )
        }
        let longPatches = longSide / patch
        let shorter = Double(min(frame.width, frame.height))
        let exact = Double(longPatches) * shorter / Double(max(frame.width, frame.height))
        let below = max(1, Int(exact.rounded(.down)))
        let above = min(below + 1, longPatches)
        let belowIsNearer = abs(log(Double(below) / exact)) <= abs(log(Double(above) / exact))
        let long = longPatches * patch
        let short = (belowIsNearer ? below : above) * patch
        return frame.width >= frame.height
            ? FrameSize(width: long, height: short)
            : FrameSize(width: short, height: long)
    }
}

extension FrameSize: CustomStringConvertible {
    /// Width x height.
    public var description: String { "\(width) x \(height)" }
}

/// The centred part of a source frame that a target frame shows, in source pixels.
///
/// A frame is scaled until it covers the target and cropped evenly: nothing is padded, nothing is stretched. Pixel
/// coordinates are continuous, the top-left corner of the image is (0, 0).
public struct FrameCrop: Equatable, Sendable {
    /// Left edge of the part that is shown.
    public let left: Double
    /// Top edge of the part that is shown.
    public let top: Double
    /// Width of the part that is shown.
    public let width: Double
    /// Height of the part that is shown.
    public let height: Double
    /// Target pixels per source pixel.
    public let scale: Double

    /// - Parameters:
    ///   - source: The frame as the camera gives it.
    ///   - target: The frame as the model sees it.
    public init(from source: FrameSize, toCover target: FrameSize) {
        scale = max(
            Double(target.width) / Double(source.width),
            Double(target.height) / Double(source.height)
        )
        width = min(Double(target.width) / scale, Double(source.width))
        height = min(Double(target.height) / scale, Double(source.height))
        left = (Double(source.width) - width) / 2
        top = (Double(source.height) - height) / 2
    }
}
