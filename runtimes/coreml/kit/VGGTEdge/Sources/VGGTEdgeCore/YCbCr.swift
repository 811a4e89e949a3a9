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

/// One plane of a picture in memory that somebody else owns. Valid only as long as that memory is.
public struct BytePlane {
    /// The rows, each `bytesPerRow` long; the last one may end with its last sample.
    public let bytes: UnsafeRawBufferPointer
    /// From the start of one row to the start of the next.
    public let bytesPerRow: Int

    /// - Parameters:
    ///   - bytes: The rows.
    ///   - bytesPerRow: From the start of one row to the start of the next.
    public init(bytes: UnsafeRawBufferPointer, bytesPerRow: Int) {
        self.bytes = bytes
        self.bytesPerRow = bytesPerRow
    }

    /// Without multiplying, which could overflow.
    func holds(rows: Int, of rowLength: Int) -> Bool {
        bytesPerRow >= rowLength && bytes.count >= rowLength && (bytes.count - rowLength) / bytesPerRow >= rows - 1
    }
}

/// The inverse of an encoding in fixed point.
struct YCbCrDecoder: Sendable {
    private static let precision = 16

    private let blackLevel: Int
    private let brightness: Int
    private let redFromCr: Int
    private let greenFromCb: Int
    private let greenFromCr: Int
    private let blueFromCb: Int

    init(_ encoding: YCbCrEncoding) {
        let (red, blue) = (encoding.matrix.red, encoding.matrix.blue)
        let green = 1 - red - blue
        let video = encoding.levels == .video
        let one = Double(1 << Self.precision)
        let colorGain = (video ? 255.0 / 224.0 : 1) * one
        blackLevel = video ? 16 : 0
        brightness = Int(((video ? 255.0 / 219.0 : 1) * one).rounded())
        redFromCr = Int((2 * (1 - red) * colorGain).rounded())
        blueFromCb = Int((2 * (1 - blue) * colorGain).rounded())
        greenFromCb = Int((2 * (1 - blue) * blue / green * colorGain).rounded())
        greenFromCr = Int((2 * (1 - red) * red / green * colorGain).rounded())
    }

    @inline(__always)
    func color(y: UInt8, cb: UInt8, cr: UInt8) -> (red: UInt8, green: UInt8, blue: UInt8) {
        let half = 1 << (Self.precision - 1)
        let base = (Int(y) - blackLevel) * brightness + half
        let (blueness, redness) = (Int(cb) - 128, Int(cr) - 128)
        return (
            UInt8(clamping: (base + redness * redFromCr) >> Self.precision),
            UInt8(clamping: (base - blueness * greenFromCb - redness * greenFromCr) >> Self.precision),
            UInt8(clamping: (base + blueness * blueFromCb) >> Self.precision)
        )
    }
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
        try Self.checkSides(of: size)
        guard luma.holds(rows: size.height, of: size.width),
            chroma.holds(rows: (size.height + 1) / 2, of: (size.width + 1) / 2 * 2)
        else {
            throw KitError(
                .wrongInput,
                "the planes hold no picture of \(size) pixels",
                remedy: "pass the planes, sizes and bytes per row of one pixel buffer"
            )
        }
        let decoder = YCbCrDecoder(encoding)
        var pixels = [UInt8]()
        pixels.reserveCapacity(3 * size.pixelCount)
        for row in 0..<size.height {
            let lumaStart = row * luma.bytesPerRow
            let chromaStart = row / 2 * chroma.bytesPerRow
            for column in 0..<size.width {
                let colorStart = chromaStart + column / 2 * 2
                let color = decoder.color(
                    y: luma.bytes[lumaStart + column],
                    cb: chroma.bytes[colorStart],
                    cr: chroma.bytes[colorStart + 1]
                )
                pixels.append(color.red)
                pixels.append(color.green)
                pixels.append(color.blue)
            }
        }
        self.init(uncheckedSize: size, pixels: pixels)
    }
}
