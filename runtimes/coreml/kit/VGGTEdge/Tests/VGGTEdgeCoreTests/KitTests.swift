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

    /// The rule for pictures and points; kits of earlier exports have none.
    func testPreprocess() throws {
        let kit = try exportedKit()
        XCTAssertEqual(kit.preprocess, .fit)
        XCTAssertEqual(kit.pixelCenters, .half)
        let other = try exportedKit(changing: [("\"fit\"", "\"pad\""), ("\"half\"", "\"integer\"")])
        XCTAssertEqual(other.preprocess, Preprocess(mode: .pad))
        XCTAssertEqual(other.pixelCenters, .integer)
        XCTAssertEqual(try Kit(json: JSONEncoder().encode(other)), other)
        let early = try exportedKit(changing: [("\"preprocess\"", "\"x\""), ("\"pixel_centers\"", "\"y\"")])
        XCTAssertEqual(early.preprocess, .fit)
        XCTAssertEqual(early.pixelCenters, .half)
        XCTAssertEqual(try exportedKit(changing: [("\"patch\": 14", "\"patch\": 7")]).preprocess.patch, 7)
        let wrong = [
            ("\"fit\"", "\"stretch\""), ("\"half\"", "\"third\""), ("\"patch\": 14", "\"patch\": 0"),
            ("\"patch\": 14", "\"patch\": 16"),  // the input is 28 x 14
        ]
        for (text, other) in wrong {
            assertKitError(.damagedFile, text) { try exportedKit(changing: [(text, other)]) }
        }
    }

    /// Writing and reading again changes nothing.
    func testRoundTrip() throws {
        let kit = try exportedKit()
        XCTAssertEqual(try Kit(json: JSONEncoder().encode(kit)), kit)
        let unlimited = try exportedKit(changing: [("\"backend_sqnr_db_min\": 30.0", "\"backend_sqnr_db_min\": null")])
        XCTAssertEqual(try Kit(json: JSONEncoder().encode(unlimited)), unlimited)
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

    /// Names that lead out of the folder, whatever they are made of: bytes count, not characters.
    func testHiddenSlashes() throws {
        for name in [
            "..\u{2f}x", "../\u{301}x", "..\\\\x", "a/\u{338}b", "\\u0000", "a\\u0000b", "\\u007f", "", ".", "..", "/",
            "a\\u000ab", String(repeating: "x", count: 256),
        ] {
            for old in ["\"vggt.mlpackage\"", "\"golden.safetensors\""] {
                assertKitError(.damagedFile, name) { try exportedKit(changing: [(old, "\"\(name)\"")]) }
            }
        }
        for path in ["../x", "a//b", "/a", "a/", "a/../../b", "Data/\u{301}x/../..", "a\\u0000"] {
            assertKitError(.damagedFile, path) { try exportedKit(changing: [("\"Manifest.json\"", "\"\(path)\"")]) }
        }
        // A combining mark alone hides nothing.
        XCTAssertNoThrow(try exportedKit(changing: [("\"golden.safetensors\"", "\"golde\u{301}n.safetensors\"")]))
    }

    /// Tables that are empty, limits that let everything or nothing pass, keys that are misspelt: nothing counts as
    /// checked by chance.
    func testKitsThatCheckNothing() throws {
        let whole = String(decoding: try Vectors.load().kit, as: UTF8.self)
        func replaced(_ key: String, with value: Any) throws -> Data {
            var kit = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(whole.utf8)) as? [String: Any])
            kit[key] = value
            return try JSONSerialization.data(withJSONObject: kit)
        }
        var model = try XCTUnwrap(
            (try JSONSerialization.jsonObject(with: Data(whole.utf8)) as? [String: Any])?["model"] as? [String: Any]
        )
        model["files"] = [String: String]()
        let depth: [String: Any] = ["name": "depth", "shape": [1, 2, 14, 28]]
        for (key, value) in [
            ("outputs", []), ("outputs", [depth, depth]), ("model", model), ("tolerances", [:]),
            ("tolerances", ["backend_sqnr_db_min": 0]), ("tolerances", ["backend_sqnr_db_min": -300]),
            ("tolerances", ["backend_sqnr_db_min": 201]), ("tolerances", ["backend_sqnr_db_min": "30"]),
            ("tolerances", ["backend_sqnr_db_min": 30, "pose_degree_max": 1]),
            ("tolerances", ["backend_sqnr_db_min": 30, "pose_degrees_max": 0]),
            ("tolerances", ["backend_sqnr_db_min": 30, "pose_degrees_max": 181]),
            ("plan_digest", ""), ("input", ["kind": "tensor", "frames": 1024, "height": 16380, "width": 16380]),
            ("golden", ["file": "golden.safetensors", "sha256": ""]), ("golden", "none"),
        ] as [(String, Any)] {
            assertKitError(.damagedFile, "\(key): \(value)") { try Kit(json: replaced(key, with: value)) }
        }
        for key in ["outputs", "tolerances", "golden", "blocks", "backend_sqnr_db_min", "plan_digest"] {
            assertKitError(.damagedFile, key) { try exportedKit(changing: [("\"\(key)\"", "\"\(key)_\"")]) }
        }
        let angles = try Kit(json: replaced("tolerances", with: ["backend_sqnr_db_min": 30, "pose_degrees_max": 1.5]))
        XCTAssertEqual(angles.tolerances.poseDegreesMax, 1.5)
    }

    /// The texts that all kits read alike.
    func testSharedCasesOfJSON() throws {
        let cases = try Vectors.load().json
        XCTAssertGreaterThan(cases.filter(\.accepted).count, 20)
        XCTAssertGreaterThan(cases.filter { !$0.accepted }.count, 60)
        for example in cases {
            let read = Result { try StrictJSON(example.text, limits: Kit.limits) }
            XCTAssertEqual((try? read.get()) != nil, example.accepted, example.name)
        }
    }

    /// JSON that two parsers read differently is refused; a file that is too large is not read.
    func testStrictJSON() throws {
        let kit = String(decoding: try Vectors.load().kit, as: UTF8.self)
        for text in [
            kit + "x", "\u{feff}" + kit, "// kit\n" + kit, kit.replacingOccurrences(of: "30.0", with: "030.0"),
            kit.replacingOccurrences(of: "30.0", with: "NaN"), kit.replacingOccurrences(of: "30.0", with: "1e999"),
            kit.replacingOccurrences(of: "\"target\"", with: "\"golden\": null, \"target\""),
            kit.replacingOccurrences(of: "\"ios-ar\"", with: "'ios-ar'"),
            kit.replacingOccurrences(of: "\"frames\": 2", with: "\"frames\": 2.0"),
        ] {
            assertKitError(.damagedFile) { try Kit(json: Data(text.utf8)) }
        }
        assertKitError(.damagedFile) { try Kit(json: Data(kit.utf8) + Data(repeating: 0x20, count: 1 << 20)) }
        assertKitError(.damagedFile) { try Kit(json: Data([0x7B, 0x22, 0xFF, 0x22, 0x3A, 0x31, 0x7D])) }
        assertKitError(.damagedFile) { try Kit(json: Data(repeating: UInt8(ascii: "["), count: 1 << 20)) }
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

    private func judged(
        _ name: String, _ values: [Float], changing replacements: [(String, String)] = []
    ) throws -> OutputAccuracy {
        let kit = try exportedKit(changing: replacements)
        let golden = try GoldenTensors(file: SafetensorsFile(data: Vectors.load().golden), kit: kit)
        return try OutputAccuracy(of: name, values: values, golden: golden, tolerances: kit.tolerances)
    }

    private func simulation(_ name: String) throws -> [Float] {
        let golden = try GoldenTensors(file: SafetensorsFile(data: Vectors.load().golden), kit: exportedKit())
        return try XCTUnwrap(golden.simulation[name]).values
    }

    /// Too much noise fails, and so does NaN; turning a quaternion's sign does not.
    func testVerdicts() throws {
        let depth = try simulation("depth")
        XCTAssertEqual(try judged("depth", depth.map { $0 * 1.5 }).status, .failed)
        XCTAssertEqual(try judged("depth", [.nan] + depth.dropFirst()).status, .failed)
        var pose = try simulation("pose_enc")
        for index in 3..<7 { pose[index] = -pose[index] }
        XCTAssertEqual(try judged("pose_enc", pose).status, .passed)
        assertKitError(.damagedFile) { try self.judged("points", depth) }
        assertKitError(.damagedFile) { try self.judged("depth", [.nan]) }
    }

    /// Without a limit nothing passes: what is finite is not judged, what is not has failed.
    func testNotJudged() throws {
        let unlimited = [("\"backend_sqnr_db_min\": 30.0", "\"backend_sqnr_db_min\": null")]
        let depth = try simulation("depth")
        for values in [depth, depth.map { _ in 0 }, depth.map { -$0 }] {
            XCTAssertEqual(try judged("depth", values, changing: unlimited).status, .notJudged)
        }
        XCTAssertEqual(try judged("depth", depth.map { _ in .nan }, changing: unlimited).status, .failed)
        XCTAssertEqual(Verdict(all: []), .notJudged)
        XCTAssertEqual(Verdict(all: [.passed, .notJudged]), .notJudged)
        XCTAssertEqual(Verdict(all: [.passed, .notJudged, .failed]), .failed)
        XCTAssertEqual(Verdict(all: [.passed, .passed]), .passed)
    }

    /// Poses are judged by their angles where kit.json has a limit for them.
    func testPoseAngles() throws {
        let loose = ("\"backend_sqnr_db_min\": 30.0", "\"backend_sqnr_db_min\": 1.0")
        let limits = [loose, ("\"pose_degrees_max\": null", "\"pose_degrees_max\": 0.1")]
        var pose = try simulation("pose_enc")
        XCTAssertEqual(try judged("pose_enc", pose, changing: limits).status, .passed)
        pose[3] += 0.05
        let turned = try judged("pose_enc", pose, changing: limits)
        XCTAssertEqual(turned.status, .failed)
        XCTAssertGreaterThan(try XCTUnwrap(turned.pose).rotationDegrees, 0.1)
        XCTAssertGreaterThan(try XCTUnwrap(turned.againstSimulation).sqnrDB, 1)
        XCTAssertEqual(try judged("pose_enc", pose, changing: [loose]).status, .passed)
    }

    /// A golden tensor with NaN is named, and one of another shape is not copied before it is refused.
    func testBadGoldenTensors() throws {
        let kit = try exportedKit()
        var file = try Vectors.load().golden
        let notANumber = withUnsafeBytes(of: Float.nan.bitPattern.littleEndian) { Data($0) }
        file.replaceSubrange((file.count - 4)..<file.count, with: notANumber)
        XCTAssertThrowsError(try GoldenTensors(file: SafetensorsFile(data: file), kit: kit)) { error in
            XCTAssertTrue("\(error)".contains("simulation/pose_enc"), "\(error)")
        }
        let whole = try JSONSerialization.jsonObject(with: Vectors.load().kit)
        var wide = try XCTUnwrap(whole as? [String: Any])
        wide["input"] = ["kind": "tensor", "frames": 2, "height": 14, "width": 42]
        wide["outputs"] = [["name": "depth", "shape": [1, 2, 14, 42]]]
        let other = try Kit(json: JSONSerialization.data(withJSONObject: wide))
        assertKitError(.damagedFile) {
            try GoldenTensors(file: SafetensorsFile(data: Vectors.load().golden), kit: other)
        }
    }

    /// The result is written with sorted keys, the same bytes twice; figures that are no numbers are an error.
    func testResult() throws {
        let kit = try exportedKit()
        func result(_ accuracy: [OutputAccuracy], loadMS: Double = 1.5) throws -> CheckResult {
            CheckResult(
                kit: kit,
                runtime: RuntimeDescription(name: "Core ML", version: "18.0.0"),
                device: DeviceDescription(model: "iPhone17,1", system: "iOS 18.0", isSimulator: false),
                thermal: ThermalStates(before: "nominal", after: "fair"),
                lowPowerMode: false,
                computeUnits: .all,
                accuracy: accuracy,
                runsUnlikeFirst: 0,
                timings: Timings(
                    compileMS: nil, loadMS: loadMS, firstPredictionMS: 2, measured: try Latency(milliseconds: [1, 2])
                ),
                memory: MemoryUse(bytes: 7, how: "phys_footprint"),
                placement: nil
            )
        }
        let good = try result([judged("depth", simulation("depth"))])
        XCTAssertEqual(good.status, .passed)
        XCTAssertEqual(good.failures, "")
        XCTAssertEqual(try good.json(), try good.json())
        let json = try XCTUnwrap(JSONSerialization.jsonObject(with: good.json()) as? [String: Any])
        for key in [
            "schema_version", "status", "target", "plan_digest", "runtime", "device", "thermal", "low_power_mode",
            "compute_units", "outputs", "accuracy", "runs_unlike_first", "timings_ms", "latency", "load_s",
            "memory_bytes", "peak_memory_bytes", "placement", "placement_error",
        ] {
            XCTAssertNotNil(json[key], key)
        }
        let times = try XCTUnwrap(json["timings_ms"] as? [String: Any])
        XCTAssertEqual(Set(times.keys), ["compile", "load", "first_prediction", "measured"])
        XCTAssertEqual(
            Set(try XCTUnwrap(times["measured"] as? [String: Any]).keys), ["median", "p90", "min", "max", "count"]
        )
        XCTAssertFalse(try result([]).passed)
        XCTAssertEqual(try result([]).status, .notJudged)
        assertKitError(.wrongInput) { try result([], loadMS: .nan).json() }
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
            XCTAssertEqual(try file.tensor(name), try Tensor(shape: shape, values: values), example.name)
            XCTAssertThrowsError(try file.tensor("no such tensor"))
        }
    }

    /// Processor time of this process: by the clock, a machine that is busy with other work would be slow.
    private func processorSeconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }

    /// A header that asks for memory is refused before it is read; keys that are given twice, and many sides, too.
    func testHostileHeaders() throws {
        func file(_ header: String, payload: Int = 4) -> Data {
            var data = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Data($0) }
            data.append(Data(header.utf8))
            return data + Data(repeating: 0, count: payload)
        }
        for sides in [9_000_000, 200_000] {
            let shape = "1" + String(repeating: ",1", count: sides)
            let bomb = file("{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,4],\"shape\":[\(shape)]}}")
            let start = processorSeconds()
            assertKitError(.damagedFile) { try SafetensorsFile(data: bomb) }
            XCTAssertLessThan(processorSeconds() - start, 3)
        }
        let entry = "{\"dtype\":\"F32\",\"data_offsets\":[0,4],\"shape\":[1]}"
        assertKitError(.damagedFile) { try SafetensorsFile(data: file("{\"t\":\(entry),\"t\":\(entry)}")) }
        assertKitError(.damagedFile) { try SafetensorsFile(data: file("{\"t\":\(entry)} x")) }
        XCTAssertEqual(try SafetensorsFile(data: file("{\"t\":\(entry)}  ")).names, ["t"])
        assertKitError(.wrongInput) { try Tensor(shape: [Int.max, 2], values: []) }
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
        let costs = [("a", "cpu", Double.nan), ("b", "gpu", .infinity), ("c", "cpu", 1)]
        XCTAssertEqual(Placement(operations: costs, kit: try exportedKit()).cost, ["cpu": 1, "gpu": 0])
        XCTAssertEqual(placement.cost, ["neural_engine": 0.75, "gpu": 0.25, "cpu": 0])
        XCTAssertEqual(placement.blocks["frame_blocks.0"], ["neural_engine": 1, "cpu": 1])
    }
}
