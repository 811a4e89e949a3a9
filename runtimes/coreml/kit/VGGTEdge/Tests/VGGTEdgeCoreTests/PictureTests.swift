import Foundation
import XCTest

@testable import VGGTEdgeCore

/// Pixels: the same bytes as the exporter's readers make.
final class PictureTests: XCTestCase {
    /// Scale and crop give the reader's bytes, not one level apart.
    func testResizes() throws {
        for resize in try Vectors.load().resizes {
            let image = try RGBImage(size: resize.source, pixels: Array(resize.pixels))
            let resized = try image.resized(toCover: resize.target)
            XCTAssertEqual(resized.size, resize.target)
            XCTAssertEqual(resized.pixels, Array(resize.resized), "\(resize.source) to \(resize.target)")
        }
    }

    /// Every mode gives the reader's bytes.
    func testFramings() throws {
        for framing in try Vectors.load().framings {
            let image = try RGBImage(size: framing.source, pixels: Array(framing.pixels))
            let rule = Preprocess(mode: framing.mode, patch: framing.patch)
            let framed = try image.framed(to: framing.target, by: rule)
            XCTAssertEqual(framed.size, framing.target)
            XCTAssertEqual(framed.pixels, Array(framing.framed), "\(rule) \(framing.source) to \(framing.target)")
        }
    }

    /// A picture of one colour stays it, whatever the size.
    func testOneColorStays() throws {
        let size = FrameSize(width: 61, height: 43)
        let image = try RGBImage(size: size, pixels: [UInt8](repeating: 201, count: 3 * size.pixelCount))
        let resized = try image.resized(toCover: FrameSize(width: 28, height: 14))
        XCTAssertEqual(Set(resized.pixels), [201])
    }

    /// A target that is not made of whole patches is refused.
    func testPartialPatches() throws {
        let image = try RGBImage(size: FrameSize(width: 1, height: 1), pixels: [1, 2, 3])
        XCTAssertThrowsError(try image.resized(toCover: FrameSize(width: 15, height: 14)))
        let (sixteen, size) = (Preprocess(mode: .fit, patch: 16), FrameSize(width: 32, height: 16))
        XCTAssertEqual(try image.framed(to: size, by: sixteen).size, size)
        XCTAssertThrowsError(try image.framed(to: FrameSize(width: 28, height: 14), by: sixteen))
        XCTAssertThrowsError(try image.framed(to: size, by: Preprocess(mode: .fit, patch: 0)))
    }

    /// Turns agree with numpy's, and four quarters are none.
    func testTurns() throws {
        for turn in try Vectors.load().turns {
            let image = try RGBImage(size: turn.source, pixels: Array(turn.pixels))
            XCTAssertEqual(image.turned(turn.turn).pixels, Array(turn.turned))
            let around = image.turned(.clockwise).turned(.clockwise).turned(.half)
            XCTAssertEqual(around, image)
            XCTAssertEqual(image.turned(.clockwise).turned(.counterclockwise), image)
        }
    }

    /// Bytes per row may be more than the pixels need, and the order is the one that was asked for.
    func testPackedBytes() throws {
        let bytes: [UInt8] = [1, 2, 3, 255, 4, 5, 6, 255, 0, 0, 7, 8, 9, 255, 10, 11, 12, 255]
        let size = FrameSize(width: 2, height: 2)
        let (rgba, bgra) = try bytes.withUnsafeBytes { buffer in
            (
                try RGBImage(bytes: buffer, size: size, bytesPerRow: 10, order: .rgba),
                try RGBImage(bytes: buffer, size: size, bytesPerRow: 10, order: .bgra)
            )
        }
        XCTAssertEqual(rgba.pixels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
        XCTAssertEqual(bgra.pixels, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10])
    }

    /// Too few bytes, and sizes that no picture has, are errors and not crashes.
    func testBytesThatAreNoPicture() throws {
        let bytes = [UInt8](repeating: 0, count: 16)
        for (size, bytesPerRow) in [
            (FrameSize(width: 3, height: 2), 12), (FrameSize(width: 2, height: 2), 7),
            (FrameSize(width: 0, height: 2), 8), (FrameSize(width: 2, height: Int.max), 8),
            (FrameSize(width: 2, height: 2), Int.max),
        ] {
            try bytes.withUnsafeBytes { buffer in
                XCTAssertThrowsError(
                    try RGBImage(bytes: buffer, size: size, bytesPerRow: bytesPerRow, order: .rgba), "\(size)"
                )
            }
        }
        XCTAssertThrowsError(try RGBImage(size: FrameSize(width: 2, height: 2), pixels: [1, 2, 3]))
    }

    /// Planes hold byte / 255 in single precision, red first, and lead back to the bytes.
    func testPlanes() throws {
        let size = FrameSize(width: 16, height: 16)
        let bytes = (0..<(3 * size.pixelCount)).map { UInt8($0 * 7 % 256) }
        let image = try RGBImage(size: size, pixels: bytes)
        let planes = image.planes()
        XCTAssertEqual(planes.count, 3 * size.pixelCount)
        XCTAssertEqual(planes[0], Float(bytes[0]) / 255)
        XCTAssertEqual(planes[size.pixelCount + 5], Float(bytes[3 * 5 + 1]) / 255)
        XCTAssertEqual(planes[2 * size.pixelCount + 9], Float(bytes[3 * 9 + 2]) / 255)
        XCTAssertEqual(try RGBImage(planes: planes, size: size), image)
    }

    /// Values outside 0 to 1, and NaN, are no picture.
    func testPlanesOutOfRange() {
        let size = FrameSize(width: 1, height: 1)
        for values: [Float] in [[0, 0, 1.01], [-0.1, 0, 0], [.nan, 0, 0], [0, 0]] {
            XCTAssertThrowsError(try RGBImage(planes: values, size: size))
        }
    }

    /// All matrices and levels give the colours that the exact inverse gives, to one level.
    func testColors() throws {
        for color in try Vectors.load().colors {
            let encoding = YCbCrEncoding(matrix: color.matrix, levels: color.levels)
            for (triple, expected) in zip(color.ycbcr, color.rgb) {
                let image = try onePixel(triple, encoding)
                for (ours, theirs) in zip(image.pixels, expected) {
                    XCTAssertEqual(Int(ours), Int(theirs), accuracy: 1, "\(encoding) \(triple)")
                }
            }
        }
    }

    private func onePixel(_ triple: [UInt8], _ encoding: YCbCrEncoding) throws -> RGBImage {
        try [triple[0]].withUnsafeBytes { luma in
            try [triple[1], triple[2]].withUnsafeBytes { chroma in
                try RGBImage(
                    luma: BytePlane(bytes: luma, bytesPerRow: 1),
                    chroma: BytePlane(bytes: chroma, bytesPerRow: 2),
                    size: FrameSize(width: 1, height: 1),
                    encoding: encoding
                )
            }
        }
    }

    /// Four pixels share a colour sample, odd sides included; planes that are too small are refused.
    func testSharedColorSamples() throws {
        let luma = [UInt8](repeating: 100, count: 9)
        let chroma: [UInt8] = [128, 128, 128, 255, 128, 128, 128, 128]
        let encoding = YCbCrEncoding(matrix: .bt601, levels: .full)
        let size = FrameSize(width: 3, height: 3)
        try luma.withUnsafeBytes { luma in
            try chroma.withUnsafeBytes { chroma in
                let planes = (BytePlane(bytes: luma, bytesPerRow: 3), BytePlane(bytes: chroma, bytesPerRow: 4))
                let image = try RGBImage(luma: planes.0, chroma: planes.1, size: size, encoding: encoding)
                let reds = stride(from: 0, to: image.pixels.count, by: 3).map { image.pixels[$0] }
                XCTAssertEqual(reds, [100, 100, 255, 100, 100, 255, 100, 100, 100])
                let larger = FrameSize(width: 4, height: 3)
                XCTAssertThrowsError(
                    try RGBImage(luma: planes.0, chroma: planes.1, size: larger, encoding: encoding)
                )
            }
        }
    }

    /// Wider primaries become sRGB, to one level of the exact colour; sRGB stays as it is.
    func testGamuts() throws {
        for gamut in try Vectors.load().gamuts {
            let space = try XCTUnwrap(ColorSpace(rawValue: gamut.space))
            for (levels, expected) in zip(gamut.levels, gamut.rgb) {
                let converted = try image(levels + [255], space)
                for (ours, theirs) in zip(converted.pixels, expected) {
                    XCTAssertEqual(Int(ours), Int(theirs), accuracy: 1, "\(gamut.space) \(levels)")
                }
                XCTAssertEqual(try image(levels + [255], .sRGB).pixels, levels)
            }
        }
    }

    private func image(_ bytes: [UInt8], _ space: ColorSpace) throws -> RGBImage {
        try bytes.withUnsafeBytes { bytes in
            let area = PixelArea(of: FrameSize(width: 1, height: 1))
            let plane = BytePlane(bytes: bytes, bytesPerRow: 4)
            let pixels = try PackedPixels(plane: plane, area: area, order: .rgba, alpha: .straight)
            return try FrameInMemory(.packed(pixels), space: space).image(turn: .upright, to: nil)
        }
    }

    /// What is not opaque is laid on white, as Pillow does it; alpha without a meaning is refused.
    func testAlpha() throws {
        for example in try Vectors.load().alphas {
            try example.pixels.withUnsafeBytes { bytes in
                let (size, row) = (example.source, 4 * example.source.width)
                let laid = try RGBImage(bytes: bytes, size: size, bytesPerRow: row, order: .rgba, alpha: .straight)
                XCTAssertEqual(laid.pixels, Array(example.onWhite))
                assertKitError(.wrongInput) { try RGBImage(bytes: bytes, size: size, bytesPerRow: row, order: .rgba) }
                let seen = try RGBImage(bytes: bytes, size: size, bytesPerRow: row, order: .rgba, alpha: .ignored)
                let colours = bytes.indices.filter { $0 % 4 < 3 }.map { bytes[$0] }
                XCTAssertEqual(seen.pixels, colours)
            }
        }
        let half: [UInt8] = [64, 0, 128, 128]
        try half.withUnsafeBytes { bytes in
            let size = FrameSize(width: 1, height: 1)
            let laid = try RGBImage(bytes: bytes, size: size, bytesPerRow: 4, order: .rgba, alpha: .premultiplied)
            XCTAssertEqual(laid.pixels, [191, 127, 255])
        }
    }

    /// Turned and resized in one go is turned, then resized, for every turn, crop and order of the passes.
    func testFramesInMemory() throws {
        for (width, height, target) in [
            (71, 53, FrameSize(width: 42, height: 28)), (33, 90, FrameSize(width: 14, height: 28)),
            (130, 61, FrameSize(width: 28, height: 14)), (28, 42, FrameSize(width: 28, height: 42)),
            (9, 11, FrameSize(width: 28, height: 28)), (60, 28, FrameSize(width: 42, height: 28)),
        ] {
            let size = FrameSize(width: width, height: height)
            var bytes = [UInt8](repeating: 255, count: 4 * size.pixelCount)
            for index in bytes.indices where index % 4 != 3 { bytes[index] = UInt8(index * 97 % 251) }
            let area = PixelArea(rows: 1..<height, columns: 0..<(width - 1))
            try bytes.withUnsafeBytes { bytes in
                let plane = BytePlane(bytes: bytes, bytesPerRow: 4 * width)
                let whole = try RGBImage(bytes: bytes, size: size, bytesPerRow: 4 * width, order: .rgba)
                var rows = [UInt8]()
                for row in area.rows {
                    let start = 3 * row * width
                    rows += whole.pixels[start..<(start + 3 * (width - 1))]
                }
                let cropped = try RGBImage(size: FrameSize(width: width - 1, height: height - 1), pixels: rows)
                for turn in QuarterTurn.allCases {
                    let pixels = try PackedPixels(plane: plane, whole: size, area: area, order: .rgba, alpha: .unknown)
                    let frame = FrameInMemory(.packed(pixels), space: .sRGB)
                    XCTAssertEqual(try frame.image(turn: turn, to: nil), cropped.turned(turn))
                    let resized = try frame.image(turn: turn, to: ModelFrame(target))
                    XCTAssertEqual(resized, try cropped.turned(turn).resized(toCover: target), "\(size) \(turn)")
                    let pad = Preprocess(mode: .pad)
                    let padded = try frame.image(turn: turn, to: ModelFrame(target, by: pad))
                    XCTAssertEqual(padded, try cropped.turned(turn).framed(to: target, by: pad), "\(size) \(turn)")
                }
            }
        }
    }

    /// No model's input is larger than the limit, and none smaller than a patch.
    func testAbsurdTargets() throws {
        let image = try RGBImage(size: FrameSize(width: 1, height: 1), pixels: [1, 2, 3])
        for side in [0, -14, 13, 1 << 20, Int.max - Int.max % 14, Int.min] {
            assertKitError(.wrongInput, "\(side)") { try image.resized(toCover: FrameSize(width: side, height: 14)) }
            assertKitError(.wrongInput, "\(side)") { try image.resized(toCover: FrameSize(width: 14, height: side)) }
        }
        assertKitError(.wrongInput) {
            try [Float](repeating: 0, count: 4).withUnsafeBufferPointer { values in
                try image.writePlanes(to: UnsafeMutableBufferPointer(mutating: values))
            }
        }
    }
}
