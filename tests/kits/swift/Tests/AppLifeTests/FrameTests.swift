import CoreVideo
import Foundation
import StandIn
import VGGTEdge
import VGGTEdgeCore
import XCTest

/// What Core Video buffers say about themselves is followed, or refused with a reason.
final class FrameTests: AppLifeCase {
    private func buffer(
        _ format: OSType, _ size: FrameSize, _ fill: (_ plane: Int, _ row: Int, _ column: Int) -> UInt8
    ) throws -> CVPixelBuffer {
        var created: CVPixelBuffer?
        CVPixelBufferCreate(nil, size.width, size.height, format, nil, &created)
        let buffer = try XCTUnwrap(created)
        CVPixelBufferLockBaseAddress(buffer, [])
        let isPlanar = format != kCVPixelFormatType_32BGRA
        for plane in 0..<(isPlanar ? 2 : 1) {
            let base = isPlanar
                ? CVPixelBufferGetBaseAddressOfPlane(buffer, plane) : CVPixelBufferGetBaseAddress(buffer)
            let row = isPlanar
                ? CVPixelBufferGetBytesPerRowOfPlane(buffer, plane) : CVPixelBufferGetBytesPerRow(buffer)
            let rows = isPlanar ? CVPixelBufferGetHeightOfPlane(buffer, plane) : size.height
            let columns = isPlanar ? size.width : 4 * size.width
            let bytes = UnsafeMutableRawBufferPointer(start: base, count: row * rows)
            for y in 0..<rows { for x in 0..<columns { bytes[y * row + x] = fill(plane, y, x) } }
        }
        CVPixelBufferUnlockBaseAddress(buffer, [])
        return buffer
    }

    private let size = FrameSize(width: 8, height: 6)

    private func colour(
        _ format: OSType, _ ycbcr: [UInt8], _ attachments: [String: Any] = [:]
    ) throws -> [UInt8] {
        let buffer = try buffer(format, size) { plane, _, column in plane == 0 ? ycbcr[0] : ycbcr[1 + column % 2] }
        buffer.attachments = attachments
        let image = try RGBImage(buffer)
        XCTAssertEqual(buffer.locks, 0)
        return Array(image.pixels.prefix(3))
    }

    /// Range and matrix come from the buffer; a matrix that is not known is refused and not taken for BT.601.
    func testRangeAndMatrix() throws {
        let full = kCVPixelFormatType_420YpCbCr8BiPlanarFullRange
        let video = kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange
        let key = kCVImageBufferYCbCrMatrixKey.text
        XCTAssertEqual(try colour(full, [81, 90, 240]), [238, 14, 14])
        XCTAssertEqual(try colour(video, [81, 90, 240]), [254, 0, 0])
        XCTAssertEqual(try colour(video, [16, 128, 128]), [0, 0, 0])
        XCTAssertEqual(try colour(full, [16, 128, 128]), [16, 16, 16])
        let bt601 = try colour(full, [100, 90, 200], [key: kCVImageBufferYCbCrMatrix_ITU_R_601_4.text])
        let bt709 = try colour(full, [100, 90, 200], [key: kCVImageBufferYCbCrMatrix_ITU_R_709_2.text])
        XCTAssertEqual(try colour(full, [100, 90, 200]), bt601)
        XCTAssertNotEqual(bt601, bt709)
        XCTAssertThrowsError(try colour(full, [100, 90, 200], [key: "SMPTE_240M_1995"]))
    }

    /// Display P3 becomes sRGB; primaries and brightness that cannot be converted are refused.
    func testPrimaries() throws {
        let format = kCVPixelFormatType_32BGRA
        let pixel: [UInt8] = [50, 100, 200, 255]
        func converted(_ attachments: [String: Any]) throws -> [UInt8] {
            let buffer = try buffer(format, size) { _, _, column in pixel[column % 4] }
            buffer.attachments = attachments
            return Array(try RGBImage(buffer).pixels.prefix(3))
        }
        let key = kCVImageBufferColorPrimariesKey.text
        XCTAssertEqual(try converted([:]), [200, 100, 50])
        XCTAssertEqual(try converted([key: kCVImageBufferColorPrimaries_ITU_R_709_2.text]), [200, 100, 50])
        // As the exporter's reader sees such a photo.
        let p3 = try converted([key: kCVImageBufferColorPrimaries_P3_D65.text])
        for (ours, theirs) in zip(p3, [215, 93, 31]) { XCTAssertEqual(Int(ours), theirs, accuracy: 1) }
        XCTAssertThrowsError(try converted([key: "EBU_3213"]))
        let curve = kCVImageBufferTransferFunctionKey.text
        XCTAssertEqual(try converted([curve: kCVImageBufferTransferFunction_sRGB.text]), [200, 100, 50])
        XCTAssertThrowsError(try converted([curve: kCVImageBufferTransferFunction_SMPTE_ST_2084_PQ.text]))
        XCTAssertThrowsError(try converted([curve: kCVImageBufferTransferFunction_ITU_R_2100_HLG.text]))
    }

    /// Transparent pixels are laid on white where the buffer says what they mean.
    func testAlpha() throws {
        let pixel: [UInt8] = [50, 100, 20, 128]
        func laid(_ mode: CFString?) throws -> [UInt8] {
            let buffer = try buffer(kCVPixelFormatType_32BGRA, size) { _, _, column in pixel[column % 4] }
            if let mode { buffer.attachments[kCVImageBufferAlphaChannelModeKey.text] = mode.text }
            return Array(try RGBImage(buffer).pixels.prefix(3))
        }
        XCTAssertEqual(try laid(kCVImageBufferAlphaChannelMode_StraightAlpha), [137, 177, 152])
        XCTAssertEqual(try laid(kCVImageBufferAlphaChannelMode_PremultipliedAlpha), [147, 227, 177])
        XCTAssertThrowsError(try laid(nil))
    }

    /// The clean aperture is what is shown; one that leaves the buffer is refused.
    func testCleanAperture() throws {
        let buffer = try buffer(kCVPixelFormatType_420YpCbCr8BiPlanarFullRange, size) { plane, row, column in
            plane == 0 ? UInt8(10 * row + column) : 128
        }
        func attach(_ width: Double, _ height: Double, _ across: Double, _ down: Double) {
            buffer.attachments[kCVImageBufferCleanApertureKey.text] = [
                kCVImageBufferCleanApertureWidthKey.text: width, kCVImageBufferCleanApertureHeightKey.text: height,
                kCVImageBufferCleanApertureHorizontalOffsetKey.text: across,
                kCVImageBufferCleanApertureVerticalOffsetKey.text: down,
            ]
        }
        attach(4, 2, 1, -1)
        let image = try RGBImage(buffer)
        XCTAssertEqual(image.size, FrameSize(width: 4, height: 2))
        let reds = stride(from: 0, to: image.pixels.count, by: 3).map { image.pixels[$0] }
        XCTAssertEqual(reds, [13, 14, 15, 16, 23, 24, 25, 26])
        for (width, height, across, down) in [(0.0, 2.0, 0.0, 0.0), (9, 2, 0, 0), (4, 2, 3, 0), (.nan, 2, 0, 0)] {
            attach(width, height, across, down)
            XCTAssertThrowsError(try RGBImage(buffer), "\(width) x \(height)")
        }
        XCTAssertEqual(buffer.locks, 0)
    }

    /// `prepare` is turning and resizing of the whole picture, byte for byte.
    func testPrepare() async throws {
        let model = try await load()
        let camera = FrameSize(width: 101, height: 75)
        let buffer = try buffer(kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange, camera) { plane, row, column in
            UInt8((row * 31 + column * 17 + plane * 7) % 256)
        }
        for turn in QuarterTurn.allCases {
            let expected = try RGBImage(buffer).turned(turn).resized(toCover: model.frameSize)
            XCTAssertEqual(try model.prepare(buffer, turn: turn), expected)
        }
    }
}
