import Foundation
import StandIn
import VGGTEdge
import VGGTEdgeCore
import XCTest

/// A real export of vggt-mini, run by the exporter's Core ML interpreter: package, kit.json, golden tensors and the
/// model's own metadata go together.
final class RealModelTests: XCTestCase {
    private var folder: URL? {
        ProcessInfo.processInfo.environment["VGGT_EDGE_FOLDER"].map { URL(fileURLWithPath: $0) }
    }

    /// The whole check: hashes, golden replay, verdict.
    func testGoldenReplay() async throws {
        StandIn.shared.reset()
        guard let folder, Interpreter.socketPath != nil else { throw XCTSkip("started without an export") }
        let copy = FileManager.default.temporaryDirectory.appendingPathComponent("real-\(UUID().uuidString)")
        try FileManager.default.copyItem(at: folder, to: copy)
        defer { try? FileManager.default.removeItem(at: copy) }
        let cache = CompiledModelCache(folder: copy.appendingPathComponent("cache"))
        let result = try await DeviceCheck(folder: copy, cache: cache, warmUpRuns: 0, measuredRuns: 1).run()
        XCTAssertEqual(result.status, .passed, result.failures)
        for accuracy in result.accuracy {
            XCTAssertTrue(accuracy.finite)
            XCTAssertGreaterThan(try XCTUnwrap(accuracy.againstSimulation).sqnrDB, 25, accuracy.summary)
        }
        let pose = try XCTUnwrap(result.accuracy.first { $0.output == "pose_enc" }?.pose)
        XCTAssertLessThan(pose.rotationDegrees, 1)
        print("golden replay by the interpreter: \(result.accuracy.map(\.summary).joined(separator: "; "))")

        // One changed byte of the weights is found before anything runs.
        let weights = copy.appendingPathComponent("vggt.mlpackage/Data/com.apple.CoreML/weights/weight.bin")
        var bytes = try Data(contentsOf: weights)
        bytes[bytes.count / 2] ^= 1
        try bytes.write(to: weights)
        do {
            _ = try await DeviceCheck(folder: copy, cache: cache).run()
            XCTFail("a changed package was accepted")
        } catch let error as KitError {
            XCTAssertEqual(error.kind, .damagedFile)
        }
    }
}
