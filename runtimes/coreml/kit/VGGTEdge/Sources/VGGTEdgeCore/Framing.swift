/// How a picture becomes the model's input; `kit.json` says which rule the model was exported with.
public struct Preprocess: Encodable, Equatable, Sendable {
    /// What happens to a picture of another shape than the model's input.
    public enum Mode: String, CaseIterable, Codable, Sendable {
        /// Scaled until it covers the input, cropped evenly.
        case fit
        /// Scaled to the input's width; its height is cropped evenly, or filled up with white. VGGT's default.
        case crop
        /// Scaled until all of it is inside; the rest is white.
        case pad
    }

    /// The rule of kits that name none.
    public static let fit = Preprocess(mode: .fit)
    /// No picture is scaled to more pixels a side, however little of it is shown then.
    static let mostScaled = 32_768

    /// What happens to a picture of another shape.
    public let mode: Mode
    /// `crop` and `pad` round the scaled side to a multiple of so many pixels.
    public let patch: Int

    enum CodingKeys: String, CodingKey {
        case mode
        case patch
    }

    /// - Parameters:
    ///   - mode: What happens to a picture of another shape.
    ///   - patch: The side of one patch of the model.
    public init(mode: Mode, patch: Int = FrameSize.patch) {
        self.mode = mode
        self.patch = patch
    }
}

/// Where the centre of the first pixel lies when depth becomes points.
public enum PixelCenters: String, CaseIterable, Codable, Sendable {
    /// At 0.5: the image spans `[0, width]`.
    case half
    /// At 0, as in VGGT's first releases.
    case integer

    /// From the corner of the image.
    var place: Double { self == .half ? 0.5 : 0 }
}

/// A rectangle of whole pixels.
public struct FrameArea: Equatable, Sendable {
    /// The first column.
    public let left: Int
    /// The first row.
    public let top: Int
    /// The first column behind it.
    public let right: Int
    /// The first row below it.
    public let bottom: Int

    /// - Parameters:
    ///   - left: The first column.
    ///   - top: The first row.
    ///   - right: The first column behind it.
    ///   - bottom: The first row below it.
    public init(left: Int, top: Int, right: Int, bottom: Int) {
        (self.left, self.top, self.right, self.bottom) = (left, top, right, bottom)
    }

    /// Whether a pixel is inside.
    public func contains(column: Int, row: Int) -> Bool {
        (left..<right).contains(column) && (top..<bottom).contains(row)
    }
}

/// Where the pixels of a picture land in the model's input, and back.
///
/// Pixel coordinates are continuous, the top-left corner of an image is (0, 0).
public struct Framing: Equatable, Sendable {
    /// The size of the picture, upright.
    public let source: FrameSize
    /// The size of the model's input.
    public let target: FrameSize
    /// Pixels of the input per pixel of the picture, from left to right.
    public let scaleX: Double
    /// Pixels of the input per pixel of the picture, from top to bottom; for `crop` and `pad` a little apart.
    public let scaleY: Double
    /// The place of the picture's left edge in the input; below 0 where the picture is cropped.
    public let left: Double
    /// The place of the picture's top edge in the input; below 0 where the picture is cropped.
    public let top: Double
    /// The part of the input that shows the picture; around it the input is white, and depth means nothing.
    public let content: FrameArea

    /// The size that the resampled part of the picture becomes.
    let resampled: FrameSize
    /// The place of the resampled part's corner in the input.
    let offsetX: Int
    /// The same from top to bottom.
    let offsetY: Int
    /// The part of the picture that is resampled.
    let part: Part

    struct Part: Equatable {
        let left: Double
        let top: Double
        let right: Double
        let bottom: Double
    }

    /// - Parameters:
    ///   - source: The size of the picture, upright.
    ///   - target: The size of the model's input.
    ///   - rule: The kit's.
    /// - Throws: `KitError` for a picture or an input without pixels, and for a strip so tall that `crop` would scale
    ///   it to more than 32 768 pixels.
    public init(from source: FrameSize, to target: FrameSize, by rule: Preprocess) throws {
        let sides = [source.width, source.height, target.width, target.height, rule.patch]
        guard sides.allSatisfy({ (1...Preprocess.mostScaled).contains($0) }) else {
            throw KitError(
                .wrongInput,
                "a picture of \(source) pixels for an input of \(target), in patches of \(rule.patch)",
                remedy: "give sides from 1 to \(Preprocess.mostScaled)"
            )
        }
        (self.source, self.target) = (source, target)
        if rule.mode == .fit {
            let shown = FrameCrop(from: source, toCover: target)
            part = Part(
                left: shown.left,
                top: shown.top,
                right: shown.left + shown.width,
                bottom: shown.top + shown.height
            )
            (resampled, offsetX, offsetY) = (target, 0, 0)
            (scaleX, scaleY) = (shown.scale, shown.scale)
        } else {
            resampled = try Self.scaled(source, target, rule)
            part = Part(left: 0, top: 0, right: Double(source.width), bottom: Double(source.height))
            offsetX = Self.offset(resampled.width, target.width)
            offsetY = Self.offset(resampled.height, target.height)
            scaleX = Double(resampled.width) / Double(source.width)
            scaleY = Double(resampled.height) / Double(source.height)
        }
        left = Double(offsetX) - part.left * scaleX
        top = Double(offsetY) - part.top * scaleY
        content = FrameArea(
            left: max(offsetX, 0),
            top: max(offsetY, 0),
            right: min(offsetX + resampled.width, target.width),
            bottom: min(offsetY + resampled.height, target.height)
        )
    }

    /// Whether nothing is white.
    public var isFilled: Bool { content == FrameArea(left: 0, top: 0, right: target.width, bottom: target.height) }

    /// The place in the picture of a place in the input; the middle of its first pixel is (0.5, 0.5).
    public func toPicture(x: Double, y: Double) -> (x: Double, y: Double) {
        ((x - left) / scaleX, (y - top) / scaleY)
    }

    /// The place in the input of a place in the picture.
    public func toInput(x: Double, y: Double) -> (x: Double, y: Double) {
        (x * scaleX + left, y * scaleY + top)
    }

    private static func scaled(_ source: FrameSize, _ target: FrameSize, _ rule: Preprocess) throws -> FrameSize {
        if rule.mode == .crop {
            let height = proportional(source.height, source.width, target.width, rule.patch)
            guard height <= Double(Preprocess.mostScaled) else {
                throw KitError(
                    .wrongInput,
                    "a picture of \(source) pixels would be scaled to \(target.width) x \(Int(height))",
                    remedy: "cut the picture, or export with --preprocess fit or pad"
                )
            }
            return FrameSize(width: target.width, height: Int(height))
        }
        if Double(source.width) * Double(target.height) >= Double(source.height) * Double(target.width) {
            let height = proportional(source.height, source.width, target.width, rule.patch)
            return FrameSize(width: target.width, height: Int(min(height, Double(target.height))))
        }
        let width = proportional(source.width, source.height, target.height, rule.patch)
        return FrameSize(width: Int(min(width, Double(target.width))), height: target.height)
    }

    /// To the nearest multiple of a patch, at least one; halves to the even one.
    private static func proportional(_ side: Int, _ other: Int, _ scaledOther: Int, _ patch: Int) -> Double {
        let exact = Double(side) * (Double(scaledOther) / Double(other)) / Double(patch)
        return max(1, exact.rounded(.toNearestOrEven)) * Double(patch)
    }

    /// The larger half lies behind, where an odd number of pixels is cut or white.
    private static func offset(_ resampled: Int, _ target: Int) -> Int {
        resampled > target ? -((resampled - target) / 2) : (target - resampled) / 2
    }
}

extension Intrinsics {
    /// These intrinsics after `RGBImage.framed(to:by:)`.
    public func framed(by framing: Framing) -> Intrinsics {
        Intrinsics(
            focalX: focalX * framing.scaleX,
            focalY: focalY * framing.scaleY,
            centerX: centerX * framing.scaleX + framing.left,
            centerY: centerY * framing.scaleY + framing.top
        )
    }
}
