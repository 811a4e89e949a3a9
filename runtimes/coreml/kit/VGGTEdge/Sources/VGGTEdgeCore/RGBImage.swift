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

    /// From four bytes per pixel, as bitmaps hold them, in sRGB.
    ///
    /// - Parameters:
    ///   - bytes: The rows, each `bytesPerRow` long; the last one may end with its last pixel.
    ///   - size: The size of the picture.
    ///   - bytesPerRow: From the start of one row to the start of the next.
    ///   - order: The order of the bytes of one pixel.
    ///   - alpha: What the fourth byte means. What is not opaque is laid on white, as the exporter's readers do.
    /// - Throws: `KitError` if the bytes cannot hold such a picture, or alpha is unknown and not 255 everywhere.
    public init(
        bytes: UnsafeRawBufferPointer,
        size: FrameSize,
        bytesPerRow: Int,
        order: PixelOrder,
        alpha: PixelAlpha = .unknown
    ) throws {
        let plane = BytePlane(bytes: bytes, bytesPerRow: bytesPerRow)
        let pixels = try PackedPixels(plane: plane, area: PixelArea(of: size), order: order, alpha: alpha)
        self.init(reading: pixels, turn: .upright, area: PixelArea(of: size))
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
        return pixels.withUnsafeBufferPointer { bytes in
            let area = PixelArea(of: turn.applied(to: size))
            return RGBImage(reading: RGBPixels(bytes: bytes, size: size), turn: turn, area: area)
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
            fill(UnsafeMutableBufferPointer(rebasing: buffer[..<(3 * size.pixelCount)]))
            count = 3 * size.pixelCount
        }
    }

    /// Writes the three planes into memory, initialised or not.
    ///
    /// - Throws: `KitError` unless the memory holds exactly `3 * width * height` values.
    public func writePlanes(to buffer: UnsafeMutableBufferPointer<Float>) throws {
        guard buffer.count == 3 * size.pixelCount else {
            throw KitError(
                .wrongInput,
                "a buffer of \(buffer.count) values for a picture of \(size) pixels",
                remedy: "give \(3 * size.pixelCount) values"
            )
        }
        fill(buffer)
    }

    private func fill(_ buffer: UnsafeMutableBufferPointer<Float>) {
        let count = size.pixelCount
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
