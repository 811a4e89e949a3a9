/// How a camera or a video decoder encoded colour as brightness (Y) and two colour differences (Cb, Cr), in 8 bits.
public struct YCbCrEncoding: Equatable, Sendable {
    /// How much red and blue count in the brightness.
    public enum Matrix: String, CaseIterable, Codable, Sendable {
        /// ITU-R BT.601.
        case bt601
        /// ITU-R BT.709.
        case bt709
        /// ITU-R BT.2020.
        case bt2020

        var red: Double {
            switch self {
            case .bt601: 0.299
            case .bt709: 0.2126
            case .bt2020: 0.2627
            }
        }

        var blue: Double {
            switch self {
            case .bt601: 0.114
            case .bt709: 0.0722
            case .bt2020: 0.0593
            }
        }
    }

    /// Which of the 256 levels are used.
    public enum Levels: String, CaseIterable, Codable, Sendable {
        /// 0 to 255, as ARKit and photos use them.
        case full
        /// 16 to 235 for brightness, 16 to 240 for colour: most video.
        case video
    }

    /// How much red and blue count in the brightness.
    public let matrix: Matrix
    /// Which of the 256 levels are used.
    public let levels: Levels

    /// - Parameters:
    ///   - matrix: How much red and blue count in the brightness.
    ///   - levels: Which of the 256 levels are used.
    public init(matrix: Matrix, levels: Levels) {
        self.matrix = matrix
        self.levels = levels
    }
}

/// The inverse of an encoding in fixed point.
struct YCbCrDecoder: Sendable {
    private static let precision: Int32 = 16

    private let blackLevel: Int32
    private let brightness: Int32
    private let redFromCr: Int32
    private let greenFromCb: Int32
    private let greenFromCr: Int32
    private let blueFromCb: Int32

    init(_ encoding: YCbCrEncoding) {
        let (red, blue) = (encoding.matrix.red, encoding.matrix.blue)
        let green = 1 - red - blue
        let video = encoding.levels == .video
        let one = Double(1 << Self.precision)
        let colorGain = (video ? 255.0 / 224.0 : 1) * one
        blackLevel = video ? 16 : 0
        brightness = Int32(((video ? 255.0 / 219.0 : 1) * one).rounded())
        redFromCr = Int32((2 * (1 - red) * colorGain).rounded())
        blueFromCb = Int32((2 * (1 - blue) * colorGain).rounded())
        greenFromCb = Int32((2 * (1 - blue) * blue / green * colorGain).rounded())
        greenFromCr = Int32((2 * (1 - red) * red / green * colorGain).rounded())
    }

    /// What a colour sample adds to the brightness of its pixels, in fixed point.
    struct Tint {
        let red: Int32
        let green: Int32
        let blue: Int32
    }

    @inline(__always)
    func tint(cb: UInt8, cr: UInt8) -> Tint {
        let (blueness, redness) = (Int32(cb) &- 128, Int32(cr) &- 128)
        return Tint(
            red: redness &* redFromCr,
            green: 0 &- blueness &* greenFromCb &- redness &* greenFromCr,
            blue: blueness &* blueFromCb
        )
    }

    /// No sum leaves an `Int32`: 255 levels of brightness and 128 of colour, each times less than 2.2 * 2^16.
    @inline(__always)
    func color(y: UInt8, _ tint: Tint) -> RGB {
        let half: Int32 = 1 << (Self.precision - 1)
        let base = (Int32(y) &- blackLevel) &* brightness &+ half
        return RGB(
            red: UInt8(clamping: (base &+ tint.red) >> Self.precision),
            green: UInt8(clamping: (base &+ tint.green) >> Self.precision),
            blue: UInt8(clamping: (base &+ tint.blue) >> Self.precision)
        )
    }

    @inline(__always)
    func color(y: UInt8, cb: UInt8, cr: UInt8) -> RGB { color(y: y, tint(cb: cb, cr: cr)) }
}

extension RGBImage {
    /// From a full-size plane of Y and a half-size plane of interleaved Cb and Cr: `420YpCbCr8BiPlanar` of Core Video.
    ///
    /// The four pixels over one colour sample share its colour.
    /// - Parameters:
    ///   - luma: One byte per pixel.
    ///   - chroma: Two bytes per two by two pixels; sides are rounded up.
    ///   - size: The size of the picture.
    ///   - encoding: What the bytes mean.
    /// - Throws: `KitError` if the planes cannot hold such a picture.
    public init(luma: BytePlane, chroma: BytePlane, size: FrameSize, encoding: YCbCrEncoding) throws {
        let area = PixelArea(of: size)
        let pixels = try PlanarPixels(luma: luma, chroma: chroma, size: size, area: area, encoding: encoding)
        self.init(reading: pixels, turn: .upright, area: area)
    }
}
