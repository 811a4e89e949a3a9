/// The order of the bytes of one pixel in memory.
public enum PixelOrder: Sendable {
    /// Red, green, blue, alpha.
    case rgba
    /// Blue, green, red, alpha: the usual one of Core Video.
    case bgra
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
}

/// A picture of 8-bit RGB pixels, row after row without gaps. A value type that can be handed between threads.
public struct RGBImage: Equatable, Sendable {
    /// Its size.
    public let size: FrameSize
    /// Red, green and blue of each pixel, `3 * width * height` bytes.
    public let pixels: [UInt8]

    /// No frame of a camera is larger; what claims to be is damaged.
    static let longestSide = 1 << 15

    /// - Parameters:
    ///   - size: Its size.
    ///   - pixels: Red, green and blue of each pixel, row after row.
    /// - Throws: `KitError` unless there are `3 * width * height` bytes.
    public init(size: FrameSize, pixels: [UInt8]) throws {
        try Self.checkSides(of: size)
        guard pixels.count == 3 * size.pixelCount else {
            throw KitError(
                .wrongInput,
                "a picture of \(size) pixels has \(pixels.count) bytes",
                remedy: "give three bytes for each pixel, without gaps between the rows"
            )
        }
        self.size = size
        self.pixels = pixels
    }

    /// From four bytes per pixel, as bitmaps and Core Video hold them. Alpha is not looked at.
    ///
    /// - Parameters:
    ///   - bytes: The rows, each `bytesPerRow` long; the last one may end with its last pixel.
    ///   - size: The size of the picture.
    ///   - bytesPerRow: From the start of one row to the start of the next.
    ///   - order: The order of the bytes of one pixel.
    /// - Throws: `KitError` if the bytes cannot hold such a picture.
    public init(bytes: UnsafeRawBufferPointer, size: FrameSize, bytesPerRow: Int, order: PixelOrder) throws {
        try Self.checkSides(of: size)
        guard BytePlane(bytes: bytes, bytesPerRow: bytesPerRow).holds(rows: size.height, of: 4 * size.width) else {
            throw KitError(
                .wrongInput,
                "\(bytes.count) bytes in rows of \(bytesPerRow) hold no picture of \(size) pixels",
                remedy: "pass the buffer's own width, height and bytes per row"
            )
        }
        let (red, blue) = order == .rgba ? (0, 2) : (2, 0)
        var pixels = [UInt8]()
        pixels.reserveCapacity(3 * size.pixelCount)
        for row in 0..<size.height {
            for start in stride(from: row * bytesPerRow, to: row * bytesPerRow + 4 * size.width, by: 4) {
                pixels.append(bytes[start + red])
                pixels.append(bytes[start + 1])
                pixels.append(bytes[start + blue])
            }
        }
        self.size = size
        self.pixels = pixels
    }

    static func checkSides(of size: FrameSize) throws {
        guard (1...longestSide).contains(size.width), (1...longestSide).contains(size.height) else {
            throw KitError(
                .wrongInput,
                "a picture of \(size) pixels",
                remedy: "give a picture with sides of 1 to \(longestSide) pixels"
            )
        }
    }

    /// The picture after a turn.
    public func turned(_ turn: QuarterTurn) -> RGBImage {
        guard turn != .upright else { return self }
        let turned = turn == .half ? size : FrameSize(width: size.height, height: size.width)
        var result = [UInt8]()
        result.reserveCapacity(pixels.count)
        for row in 0..<turned.height {
            for column in 0..<turned.width {
                let start = 3 * sourceIndex(row: row, column: column, turn: turn)
                result.append(pixels[start])
                result.append(pixels[start + 1])
                result.append(pixels[start + 2])
            }
        }
        return RGBImage(uncheckedSize: turned, pixels: result)
    }

    private func sourceIndex(row: Int, column: Int, turn: QuarterTurn) -> Int {
        switch turn {
        case .upright: row * size.width + column
        case .clockwise: (size.height - 1 - column) * size.width + row
        case .half: (size.height - 1 - row) * size.width + (size.width - 1 - column)
        case .counterclockwise: column * size.width + (size.width - 1 - row)
        }
    }

    /// For sizes that this package worked out itself.
    init(uncheckedSize size: FrameSize, pixels: [UInt8]) {
        self.size = size
        self.pixels = pixels
    }
}

// MARK: - Planes of floats

extension RGBImage {
    /// `byte / 255` for every byte, in single precision as the exporter divides.
    private static let unitValues: [Float] = (0...255).map { Float($0) / 255 }

    /// Three planes, red, green, blue, with values from 0 to 1: the layout of the input `images`.
    public func planes() -> [Float] {
        [Float](unsafeUninitializedCapacity: 3 * size.pixelCount) { buffer, count in
            writePlanes(to: UnsafeMutableBufferPointer(rebasing: buffer[..<(3 * size.pixelCount)]))
            count = 3 * size.pixelCount
        }
    }

    /// Writes the three planes into memory that holds exactly `3 * width * height` values, initialised or not.
    public func writePlanes(to buffer: UnsafeMutableBufferPointer<Float>) {
        let count = size.pixelCount
        precondition(buffer.count == 3 * count, "a buffer of \(buffer.count) values for a picture of \(size) pixels")
        pixels.withUnsafeBufferPointer { pixels in
            Self.unitValues.withUnsafeBufferPointer { units in
                for index in 0..<count {
                    buffer[index] = units[Int(pixels[3 * index])]
                    buffer[count + index] = units[Int(pixels[3 * index + 1])]
                    buffer[2 * count + index] = units[Int(pixels[3 * index + 2])]
                }
            }
        }
    }

    /// From three planes with values from 0 to 1, rounded to 8 bits.
    ///
    /// - Parameters:
    ///   - planes: Red, green and blue, each row after row.
    ///   - size: The size of the picture.
    /// - Throws: `KitError` for another number of values, or a value outside 0 to 1.
    public init(planes: some Collection<Float>, size: FrameSize) throws {
        try Self.checkSides(of: size)
        let values = Array(planes)
        guard values.count == 3 * size.pixelCount, values.allSatisfy({ (0...1).contains($0) }) else {
            throw KitError(
                .wrongInput,
                "\(values.count) values are no picture of \(size) pixels with values from 0 to 1",
                remedy: "pass red, green and blue planes of that size, divided by 255"
            )
        }
        let count = size.pixelCount
        var pixels = [UInt8](repeating: 0, count: 3 * count)
        for channel in 0..<3 {
            for index in 0..<count {
                pixels[3 * index + channel] = UInt8((values[channel * count + index] * 255).rounded())
            }
        }
        self.init(uncheckedSize: size, pixels: pixels)
    }
}
