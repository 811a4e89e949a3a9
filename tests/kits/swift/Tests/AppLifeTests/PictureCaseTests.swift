import Foundation
import VGGTEdge
import VGGTEdgeCore
import XCTest

/// The picture files that all kits share, with the values that Python reads.
///
/// The kit looks into the real files. In place of ImageIO and ColorSync a stand-in gives the decoded pixels, stored and
/// in sRGB: what a device's own decoder and colour engine make of the files is not tried here.
final class PictureCaseTests: XCTestCase {
    private struct Cases: Decodable {
        let cases: [Case]
    }

    private struct Case: Decodable {
        let file: String
        let width: Int?
        let height: Int?
        let tolerance: Int?
        let points: [[Int]]?
        let refused: String?
    }

    private var folder: URL {
        URL(fileURLWithPath: ProcessInfo.processInfo.environment["VGGT_EDGE_PICTURES"] ?? ".")
    }

    private func file(_ name: String) -> URL { folder.appendingPathComponent(name) }

    func testEveryFileShowsWhatPythonSees() throws {
        let cases = try JSONDecoder().decode(Cases.self, from: Data(contentsOf: file("cases.json"))).cases
        XCTAssertGreaterThan(cases.count, 30)
        for example in cases where example.refused == nil {
            let image = try RGBImage(contentsOf: file(example.file))
            XCTAssertEqual(image.size.width, example.width, example.file)
            XCTAssertEqual(image.size.height, example.height, example.file)
            for point in try XCTUnwrap(example.points) {
                let start = 3 * (point[1] * image.size.width + point[0])
                let farthest = (0..<3).map { abs(Int(image.pixels[start + $0]) - point[2 + $0]) }.max() ?? 0
                XCTAssertLessThanOrEqual(farthest, example.tolerance ?? 0, "\(example.file) at \(point)")
            }
        }
        for example in cases where example.refused != nil {
            assertUnusable(file(example.file))
        }
    }

    /// The reason stands in the file: what cannot be decoded, or is not there, would be another error.
    private func assertUnusable(_ url: URL, _ reason: String = "it") {
        XCTAssertThrowsError(try RGBImage(contentsOf: url), url.lastPathComponent) { error in
            guard let error = error as? KitError else { return XCTFail("\(error)") }
            XCTAssertEqual(error.kind, .wrongInput)
            XCTAssertFalse(error.message.contains("decode"), error.message)
            XCTAssertTrue(error.message.contains(reason), error.message)
        }
    }

    /// A file that ends anywhere before its end is refused.
    func testWhatIsCutShortIsRefused() throws {
        for name in ["plain.png", "orientation_6.jpg", "alpha.webp", "display_p3.png"] {
            let bytes = try Data(contentsOf: file(name))
            let part = FileManager.default.temporaryDirectory.appendingPathComponent(name)
            for length in stride(from: 16, to: bytes.count - 1, by: 41) {
                try bytes.prefix(length).write(to: part)
                assertUnusable(part, "cut short")
            }
        }
    }

    /// The system says the orientation of formats that the kit does not look into; a missing file is an error.
    func testOtherFormats() throws {
        let other = FileManager.default.temporaryDirectory.appendingPathComponent("orientation_6.png")
        try Data("ftypheic".utf8).write(to: other)
        XCTAssertEqual(try RGBImage(contentsOf: other).size, FrameSize(width: 2, height: 3))
        XCTAssertThrowsError(try RGBImage(contentsOf: file("none.jpg"))) { XCTAssertTrue($0 is KitError, "\($0)") }
    }
}

final class PreparedFileTests: AppLifeCase {
    /// A file that is prepared is its picture, resized.
    func testPrepare() async throws {
        let model = try await load()
        let folder = URL(fileURLWithPath: ProcessInfo.processInfo.environment["VGGT_EDGE_PICTURES"] ?? ".")
        for orientation in 1...8 {
            let file = folder.appendingPathComponent("orientation_\(orientation).jpg")
            let expected = try RGBImage(contentsOf: file).resized(toCover: model.frameSize)
            XCTAssertEqual(try model.prepare(contentsOf: file), expected, "\(orientation)")
        }
    }
}
