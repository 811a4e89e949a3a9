import Foundation

/// The primaries of a picture. The model sees sRGB, as the exporter's readers give it; others are converted.
package enum ColorSpace: String, CaseIterable, Sendable {
    /// sRGB and BT.709 have the same primaries.
    case sRGB
    /// What phones save photos in.
    case displayP3
    /// BT.2020 with a range of ordinary brightness.
    case bt2020

    /// Rows of the matrix from linear values of these primaries to linear sRGB; the white of both is D65.
    var toSRGB: [[Float]]? {
        switch self {
        case .sRGB: nil
        case .displayP3: [
            [1.2249401762805598, -0.2249401762805598, 0],
            [-0.042056954709688, 1.042056954709688, 0],
            [-0.019637554590334, -0.078636045550632, 1.098273600140966],
        ]
        case .bt2020: [
            [1.660491002108435, -0.587641138788550, -0.072849863319885],
            [-0.124550474521591, 1.132899897125960, -0.008349422604370],
            [-0.018150763354905, -0.100578898008007, 1.118729661362913],
        ]
        }
    }
}

/// A source in other primaries, read as sRGB. All three spaces are taken to have the curve of sRGB.
struct ConvertedPixels<Source: PixelSource>: PixelSource {
    private let source: Source
    private let red: SIMD3<Float>
    private let green: SIMD3<Float>
    private let blue: SIMD3<Float>
    // Held here and not read from where they are made: that would be checked anew for every pixel.
    private let linear = SRGBCurve.linear
    private let levels = SRGBCurve.levels

    /// - Parameter matrix: Three rows of three numbers.
    init(_ source: Source, matrix: [[Float]]) {
        self.source = source
        red = SIMD3(matrix[0])
        green = SIMD3(matrix[1])
        blue = SIMD3(matrix[2])
    }

    var size: FrameSize { source.size }

    @inline(__always)
    func color(row: Int, column: Int) -> RGB {
        let color = source.color(row: row, column: column)
        let value = SIMD3(linear[Int(color.red)], linear[Int(color.green)], linear[Int(color.blue)])
        return RGB(red: level(red * value), green: level(green * value), blue: level(blue * value))
    }

    /// What lies outside sRGB is cut off.
    @inline(__always)
    private func level(_ parts: SIMD3<Float>) -> UInt8 {
        let linear = min(max(parts.x + parts.y + parts.z, 0), 1)
        return levels[Int(linear * Float(SRGBCurve.steps) + 0.5)]
    }
}

/// The curve of sRGB between levels of 8 bits and linear values, by tables.
private enum SRGBCurve {
    static let steps = 1 << 14

    static let linear: [Float] = (0...255).map { level in
        let value = Double(level) / 255
        return Float(value <= 0.04045 ? value / 12.92 : pow((value + 0.055) / 1.055, 2.4))
    }

    static let levels: [UInt8] = (0...steps).map { step in
        let value = Double(step) / Double(steps)
        let encoded = value <= 0.0031308 ? 12.92 * value : 1.055 * pow(value, 1 / 2.4) - 0.055
        return UInt8((255 * encoded).rounded())
    }
}

/// The size of a model's input, and how a picture gets there.
package struct ModelFrame: Sendable {
    package let size: FrameSize
    package let rule: Preprocess

    package init(_ size: FrameSize, by rule: Preprocess = .fit) {
        self.size = size
        self.rule = rule
    }
}

/// A frame in memory that somebody else owns, and what its values mean.
package struct FrameInMemory {
    package enum Pixels {
        case packed(PackedPixels)
        case planar(PlanarPixels)
    }

    private let pixels: Pixels
    private let space: ColorSpace

    package init(_ pixels: Pixels, space: ColorSpace) {
        self.pixels = pixels
        self.space = space
    }

    /// The frame upright and in sRGB; as a model's input where one is given.
    package func image(turn: QuarterTurn, to input: ModelFrame?) throws -> RGBImage {
        try image(upright: PictureOrientation(isMirrored: false, turn: turn), to: input)
    }

    /// The same for a picture that may have to be mirrored too.
    package func image(upright orientation: PictureOrientation, to input: ModelFrame?) throws -> RGBImage {
        switch (pixels, space.toSRGB) {
        case (.packed(let source), nil): try image(source, orientation, input)
        case (.packed(let source), let matrix?): try image(ConvertedPixels(source, matrix: matrix), orientation, input)
        case (.planar(let source), nil): try image(source, orientation, input)
        case (.planar(let source), let matrix?): try image(ConvertedPixels(source, matrix: matrix), orientation, input)
        }
    }

    private func image(
        _ source: some PixelSource, _ orientation: PictureOrientation, _ input: ModelFrame?
    ) throws -> RGBImage {
        if orientation.isMirrored { return try image(MirroredPixels(source: source), orientation.turn, input) }
        return try image(source, orientation.turn, input)
    }

    private func image(_ source: some PixelSource, _ turn: QuarterTurn, _ input: ModelFrame?) throws -> RGBImage {
        let size = turn.applied(to: source.size)
        guard let input else { return RGBImage(reading: source, turn: turn, area: PixelArea(of: size)) }
        return try Framer(from: size, to: input.size, by: input.rule).image(reading: source, turn: turn)
    }
}
