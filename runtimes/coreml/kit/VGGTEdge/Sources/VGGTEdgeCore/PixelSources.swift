/// The order of the bytes of one pixel in memory.
public enum PixelOrder: Sendable {
    /// Red, green, blue, alpha.
    case rgba
    /// Blue, green, red, alpha: the usual one of Core Video.
    case bgra
}

/// What the fourth byte of a pixel means.
public enum PixelAlpha: Sendable {
    /// Nothing: it is not looked at.
    case ignored
    /// Alpha; the colours are those of the pixel itself.
    case straight
    /// Alpha; the colours are multiplied by it already.
    case premultiplied
    /// Not known: a picture in which it is not 255 everywhere is refused.
    case unknown
}

/// Turns by a multiple of 90 degrees. A camera held upright gives pictures that lie on their side.
public enum QuarterTurn: String, CaseIterable, Codable, Sendable {
    /// Leaves the picture as it is.
    case upright
    /// A quarter to the right: what a picture of the back camera needs when the phone is held upright.
    case clockwise
    /// Upside down.
    case half
    /// A quarter to the left.
    case counterclockwise

    /// The size of a picture after the turn.
    func applied(to size: FrameSize) -> FrameSize {
        self == .upright || self == .half ? size : FrameSize(width: size.height, height: size.width)
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

/// Rows and columns of a picture.
package struct PixelArea: Equatable, Sendable {
    package let rows: Range<Int>
    package let columns: Range<Int>

    package init(rows: Range<Int>, columns: Range<Int>) {
        self.rows = rows
        self.columns = columns
    }

    /// All of a picture; nothing where a side is below 1.
    package init(of size: FrameSize) {
        self.init(rows: 0..<max(0, size.height), columns: 0..<max(0, size.width))
    }

    var size: FrameSize { FrameSize(width: columns.count, height: rows.count) }

    func isInside(_ size: FrameSize) -> Bool {
        rows.lowerBound >= 0 && columns.lowerBound >= 0 && rows.upperBound <= size.height
            && columns.upperBound <= size.width
    }
}

/// The colour of one pixel in 8 bits each.
struct RGB: Equatable, Sendable {
    let red: UInt8
    let green: UInt8
    let blue: UInt8

    /// The place behind the three bytes that were written.
    @inline(__always)
    func put(_ bytes: UnsafeMutablePointer<UInt8>) -> UnsafeMutablePointer<UInt8> {
        bytes[0] = red
        bytes[1] = green
        bytes[2] = blue
        return bytes + 3
    }
}

/// Something that pixels can be read from one by one. Rows and columns begin with 0 at the source's own corner.
protocol PixelSource {
    var size: FrameSize { get }

    func color(row: Int, column: Int) -> RGB

    /// Writes red, green and blue of a part of one row.
    func read(row: Int, columns: Range<Int>, to bytes: UnsafeMutablePointer<UInt8>)
}

extension PixelSource {
    @inline(__always)
    func read(row: Int, columns: Range<Int>, to bytes: UnsafeMutablePointer<UInt8>) {
        var to = bytes
        for column in columns { to = color(row: row, column: column).put(to) }
    }
}

/// Pixels of a picture of this package.
struct RGBPixels: PixelSource {
    let bytes: UnsafeBufferPointer<UInt8>
    let size: FrameSize

    @inline(__always)
    func color(row: Int, column: Int) -> RGB {
        let start = 3 * (row * size.width + column)
        return RGB(red: bytes[start], green: bytes[start + 1], blue: bytes[start + 2])
    }
}

/// Four bytes per pixel, of which a part is shown.
package struct PackedPixels: PixelSource {
    package let size: FrameSize
    private let plane: BytePlane
    private let start: Int
    private let red: Int
    private let blue: Int
    private let alpha: PixelAlpha

    /// - Parameters:
    ///   - plane: The rows.
    ///   - whole: The size of the picture in memory; that of the area if nil.
    ///   - area: The part that is shown.
    /// - Throws: `KitError` for memory that cannot hold the picture, or alpha that is unknown and not 255.
    package init(
        plane: BytePlane, whole: FrameSize? = nil, area: PixelArea, order: PixelOrder, alpha: PixelAlpha
    ) throws {
        let whole = whole ?? area.size
        try RGBImage.checkSides(of: whole)
        guard area.isInside(whole), plane.holds(rows: whole.height, of: 4 * whole.width) else {
            throw KitError(
                .wrongInput,
                "\(plane.bytes.count) bytes in rows of \(plane.bytesPerRow) hold no picture of \(whole) pixels",
                remedy: "pass the buffer's own width, height and bytes per row"
            )
        }
        try RGBImage.checkSides(of: area.size)
        size = area.size
        self.plane = plane
        start = area.rows.lowerBound * plane.bytesPerRow + 4 * area.columns.lowerBound
        (red, blue) = order == .rgba ? (0, 2) : (2, 0)
        let isOpaque = alpha == .ignored || Self.isOpaque(plane, start, area.size)
        guard isOpaque || alpha != .unknown else {
            throw KitError(
                .wrongInput,
                "a picture with transparent pixels that does not say what its alpha means",
                remedy: "say whether its colours are straight or premultiplied, or give opaque pixels"
            )
        }
        self.alpha = isOpaque ? .ignored : alpha
    }

    private static func isOpaque(_ plane: BytePlane, _ start: Int, _ size: FrameSize) -> Bool {
        (0..<size.height).allSatisfy { row in
            let first = start + row * plane.bytesPerRow + 3
            return stride(from: first, to: first + 4 * size.width, by: 4).allSatisfy { plane.bytes[$0] == 255 }
        }
    }

    @inline(__always)
    func color(row: Int, column: Int) -> RGB {
        let at = start + row * plane.bytesPerRow + 4 * column
        let color = RGB(red: plane.bytes[at + red], green: plane.bytes[at + 1], blue: plane.bytes[at + blue])
        return alpha == .ignored ? color : onWhite(color, alpha: Int(plane.bytes[at + 3]))
    }

    private func onWhite(_ color: RGB, alpha: Int) -> RGB {
        func laid(_ level: UInt8) -> UInt8 {
            if self.alpha == .premultiplied { return UInt8(clamping: Int(level) + 255 - alpha) }
            return UInt8((Int(level) * alpha + 255 * (255 - alpha) + 127) / 255)
        }
        return RGB(red: laid(color.red), green: laid(color.green), blue: laid(color.blue))
    }
}

/// A plane of Y and a plane of Cb and Cr, of which a part is shown.
package struct PlanarPixels: PixelSource {
    package let size: FrameSize
    private let luma: BytePlane
    private let chroma: BytePlane
    private let firstRow: Int
    private let firstColumn: Int
    private let decoder: YCbCrDecoder

    /// - Parameters:
    ///   - size: The size of the picture in memory.
    ///   - area: The part that is shown.
    /// - Throws: `KitError` if the planes cannot hold such a picture.
    package init(
        luma: BytePlane, chroma: BytePlane, size: FrameSize, area: PixelArea, encoding: YCbCrEncoding
    ) throws {
        try RGBImage.checkSides(of: size)
        guard area.isInside(size), luma.holds(rows: size.height, of: size.width),
            chroma.holds(rows: (size.height + 1) / 2, of: (size.width + 1) / 2 * 2)
        else {
            throw KitError(
                .wrongInput,
                "the planes hold no picture of \(size) pixels",
                remedy: "pass the planes, sizes and bytes per row of one pixel buffer"
            )
        }
        try RGBImage.checkSides(of: area.size)
        self.size = area.size
        self.luma = luma
        self.chroma = chroma
        firstRow = area.rows.lowerBound
        firstColumn = area.columns.lowerBound
        decoder = YCbCrDecoder(encoding)
    }

    @inline(__always)
    func color(row: Int, column: Int) -> RGB {
        let (row, column) = (row &+ firstRow, column &+ firstColumn)
        let at = (row >> 1) &* chroma.bytesPerRow &+ (column & ~1)
        return decoder.color(
            y: luma.bytes[row &* luma.bytesPerRow &+ column], cb: chroma.bytes[at], cr: chroma.bytes[at &+ 1]
        )
    }

    /// Two pixels at a time: they share their colour sample.
    @inline(__always)
    func read(row: Int, columns: Range<Int>, to bytes: UnsafeMutablePointer<UInt8>) {
        var to = bytes
        var column = columns.lowerBound
        if (column &+ firstColumn) & 1 == 1, column < columns.upperBound {
            to = color(row: row, column: column).put(to)
            column &+= 1
        }
        let y = (row &+ firstRow) &* luma.bytesPerRow &+ firstColumn
        let c = ((row &+ firstRow) >> 1) &* chroma.bytesPerRow &+ firstColumn
        while column &+ 1 < columns.upperBound {
            let tint = decoder.tint(cb: chroma.bytes[c &+ column], cr: chroma.bytes[c &+ column &+ 1])
            to = decoder.color(y: luma.bytes[y &+ column], tint).put(to)
            to = decoder.color(y: luma.bytes[y &+ column &+ 1], tint).put(to)
            column &+= 2
        }
        if column < columns.upperBound { _ = color(row: row, column: column).put(to) }
    }
}

/// A source with left and right exchanged.
struct MirroredPixels<Source: PixelSource>: PixelSource {
    let source: Source

    var size: FrameSize { source.size }

    @inline(__always)
    func color(row: Int, column: Int) -> RGB { source.color(row: row, column: size.width - 1 - column) }
}

// MARK: - Reading

extension RGBImage {
    /// A part of the turned source. Tiles keep the rows of a source that is read across in the processor's cache.
    init(reading source: some PixelSource, turn: QuarterTurn, area: PixelArea) {
        let (height, width) = (source.size.height, source.size.width)
        switch turn {
        case .upright: self.init(rowsOf: source, area)
        case .clockwise: self.init(area, tile: 32) { source.color(row: height - 1 - $1, column: $0) }
        case .half: self.init(area, tile: width) { source.color(row: height - 1 - $0, column: width - 1 - $1) }
        case .counterclockwise: self.init(area, tile: 32) { source.color(row: $1, column: width - 1 - $0) }
        }
    }

    private init(rowsOf source: some PixelSource, _ area: PixelArea) {
        let size = area.size
        let pixels = [UInt8](unsafeUninitializedCapacity: 3 * size.pixelCount) { bytes, count in
            guard let first = bytes.baseAddress else { return }
            for row in 0..<size.height {
                source.read(row: area.rows.lowerBound + row, columns: area.columns, to: first + 3 * row * size.width)
            }
            count = 3 * size.pixelCount
        }
        self.init(uncheckedSize: size, pixels: pixels)
    }

    @inline(__always)
    private init(_ area: PixelArea, tile: Int, color: (_ row: Int, _ column: Int) -> RGB) {
        let size = area.size
        let pixels = [UInt8](unsafeUninitializedCapacity: 3 * size.pixelCount) { bytes, count in
            for left in stride(from: 0, to: size.width, by: tile) {
                let right = min(left + tile, size.width)
                for row in 0..<size.height {
                    for column in left..<right {
                        let pixel = color(row &+ area.rows.lowerBound, column &+ area.columns.lowerBound)
                        let at = 3 &* (row &* size.width &+ column)
                        bytes[at] = pixel.red
                        bytes[at &+ 1] = pixel.green
                        bytes[at &+ 2] = pixel.blue
                    }
                }
            }
            count = 3 * size.pixelCount
        }
        self.init(uncheckedSize: size, pixels: pixels)
    }
}
