import Foundation
import XCTest

@testable import VGGTEdgeCore

/// `kit.json` and the golden tensors: those that the exporter wrote, and damaged ones.
final class KitTests: XCTestCase {
    private func exportedKit(changing replacements: [(String, String)] = []) throws -> Kit {
        var text = String(decoding: try Vectors.load().kit, as: UTF8.self)
        for (old, new) in replacements {
            XCTAssertTrue(text.contains(old), old)
            text = text.replacingOccurrences(of: old, with: new)
        }
        return try Kit(json: Data(text.utf8))
    }

    /// The exporter's file is read whole.
    func testExportersKit() throws {
        let kit = try exportedKit()
        XCTAssertEqual(kit.target, "ios-ar")
        XCTAssertEqual(kit.model.package, "vggt.mlpackage")
        XCTAssertEqual(kit.model.computeUnits, .cpuAndNeuralEngine)
        XCTAssertEqual(kit.model.minimumOS, Kit.MinimumOS(iOS: 18, macOS: 15, visionOS: 2))
        XCTAssertEqual(kit.input.names, ["images"])
        XCTAssertEqual(kit.input.frameSize, FrameSize(width: 28, height: 14))
        XCTAssertEqual(kit.outputs.map(\.name), ["pose_enc", "depth", "depth_conf"])
        XCTAssertEqual(kit.tolerances.backendSQNRdBMin, 30)
        XCTAssertEqual(kit.blocks.first?.operationPrefix, "frame_blocks_0__")
    }

    /// Writing and reading again changes nothing.
    func testRoundTrip() throws {
        let kit = try exportedKit()
        XCTAssertEqual(try Kit(json: JSONEncoder().encode(kit)), kit)
    }

    /// A newer file is unsupported; a file that leads out of its folder or contradicts itself is damaged.
    func testBadKits() throws {
        for (change, kind) in [
            (("\"schema_version\": 1", "\"schema_version\": 2"), KitError.Kind.unsupported),
            (("vggt.mlpackage", "../vggt.mlpackage"), .damagedFile),
            (("\"height\": 14", "\"height\": 15"), .damagedFile),
            (("\"frames\": 2", "\"frames\": 3"), .damagedFile),
            (("cpuAndNeuralEngine", "quantumComputer"), .damagedFile),
            (("\"target\"", "\"goal\""), .damagedFile),
        ] {
            XCTAssertThrowsError(try exportedKit(changing: [change]), "\(change)") { error in
                XCTAssertEqual((error as? KitError)?.kind, kind, "\(change)")
            }
        }
        XCTAssertThrowsError(try Kit(json: Data("[".utf8)))
        XCTAssertThrowsError(try Kit(folder: URL(fileURLWithPath: "/nowhere"))) { error in
            XCTAssertEqual((error as? KitError)?.kind, .damagedFile)
        }
    }

    /// The exporter's golden tensors fit its kit, and a perfect device passes.
    func testGoldenTensors() throws {
        let kit = try exportedKit()
        let golden = try GoldenTensors(file: SafetensorsFile(data: Vectors.load().golden), kit: kit)
        XCTAssertEqual(golden.images.shape, [1, 2, 3, 14, 28])
        for output in kit.outputs {
            let values = try XCTUnwrap(golden.simulation[output.name]).values
            let judged = try OutputAccuracy(
                of: output.name, values: values, golden: golden, tolerances: kit.tolerances
            )
            XCTAssertEqual(judged.status, .passed)
            XCTAssertEqual(judged.againstSimulation?.sqnrDB, 200)
            XCTAssertNotNil(judged.againstFP32)
        }
    }

    /// Too much noise fails, and so does NaN; turning a quaternion's sign does not.
    func testVerdicts() throws {
        let kit = try exportedKit()
        let golden = try GoldenTensors(file: SafetensorsFile(data: Vectors.load().golden), kit: kit)
        let depth = try XCTUnwrap(golden.simulation["depth"]).values
        func status(_ name: String, _ values: [Float]) throws -> OutputAccuracy.Status {
            try OutputAccuracy(of: name, values: values, golden: golden, tolerances: kit.tolerances).status
        }
        XCTAssertEqual(try status("depth", depth.map { $0 * 1.5 }), .failed)
        XCTAssertEqual(try status("depth", [.nan] + depth.dropFirst()), .failed)
        var pose = try XCTUnwrap(golden.simulation["pose_enc"]).values
        for index in 3..<7 { pose[index] = -pose[index] }
        XCTAssertEqual(try status("pose_enc", pose), .passed)
        XCTAssertThrowsError(try status("points", depth))
    }

    /// Good files are read, hostile ones are errors.
    func testSafetensors() throws {
        for example in try Vectors.load().safetensors {
            guard let shape = example.shape, let values = example.values else {
                XCTAssertThrowsError(try SafetensorsFile(data: example.file), example.name) { error in
                    XCTAssertEqual((error as? KitError)?.kind, .damagedFile, example.name)
                }
                continue
            }
            let file = try SafetensorsFile(data: example.file)
            let name = try XCTUnwrap(file.names.first)
            XCTAssertEqual(try file.tensor(name), Tensor(shape: shape, values: values), example.name)
            XCTAssertThrowsError(try file.tensor("no such tensor"))
        }
    }

    /// Operations are counted by device and by the block that their name begins with.
    func testPlacement() throws {
        let placement = Placement(
            operations: [
                ("frame_blocks_0__attn_qkv__linear", "neural_engine", 3), ("depth_head__x__conv", "gpu", 1),
                ("frame_blocks_0__mlp__gelu", "cpu", 0),
            ],
            kit: try exportedKit()
        )
        XCTAssertEqual(placement.operations, ["neural_engine": 1, "gpu": 1, "cpu": 1])
        XCTAssertEqual(placement.cost, ["neural_engine": 0.75, "gpu": 0.25, "cpu": 0])
        XCTAssertEqual(placement.blocks["frame_blocks.0"], ["neural_engine": 1, "cpu": 1])
    }
}
