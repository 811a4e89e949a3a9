import CoreML
import Foundation
import StandIn
import VGGTEdge
import VGGTEdgeCore
import XCTest

/// What the check on a device calls passed, failed and not judged.
final class CheckTests: AppLifeCase {
    /// A perfect device passes, and every figure is in its place.
    func testPerfectDevice() async throws {
        StandIn.shared.change { $0.compileSeconds = 0.02 }
        let result = try await check(runs: 5)
        XCTAssertEqual(result.status, .passed, result.failures)
        XCTAssertEqual(result.accuracy.map(\.output), ["depth", "depth_conf", "pose_enc"])
        XCTAssertEqual(result.runsUnlikeFirst, 0)
        XCTAssertEqual(result.latency.runs, 5)
        XCTAssertGreaterThanOrEqual(try XCTUnwrap(result.timings.compileMS), 20)
        XCTAssertGreaterThan(result.timings.loadMS, 0)
        XCTAssertGreaterThan(result.timings.firstPredictionMS, 0)
        XCTAssertEqual(result.memory.how, "phys_footprint")
        XCTAssertGreaterThan(try XCTUnwrap(result.memory.bytes), 1 << 20)
        XCTAssertEqual(result.runtime.name, "Core ML")
        XCTAssertEqual(result.placement?.operations, ["cpu": 2])
        let again = try await check()
        XCTAssertNil(again.timings.compileMS)
    }

    /// NaN in one prediction is found, whichever it is: cold, warming up, measured, last.
    func testNaNInAnyPrediction() async throws {
        for bad in 1...5 {
            StandIn.shared.reset()
            try await setUp()
            StandIn.shared.change { $0.predict = { _, number in
                let depth = AppLifeCase.golden("depth")
                return try AppLifeCase.answer(number == bad ? ["depth": [.nan] + depth.dropFirst()] : [:])
            } }
            let result = try await check()
            XCTAssertEqual(result.status, .failed, "prediction \(bad)")
            XCTAssertEqual(result.accuracy.first { $0.output == "depth" }?.finite, false, "prediction \(bad)")
        }
    }

    /// A later prediction that is finite and wrong fails; one that differs and is close enough is counted.
    func testLaterPredictions() async throws {
        for (factor, status) in [(Float(0), Verdict.failed), (1.0001, .passed)] {
            StandIn.shared.reset()
            try await setUp()
            StandIn.shared.change { $0.predict = { _, number in
                let depth = AppLifeCase.golden("depth").map { $0 * (number == 4 ? factor : 1) }
                return try AppLifeCase.answer(["depth": depth])
            } }
            let result = try await check()
            XCTAssertEqual(result.status, status)
            XCTAssertEqual(result.runsUnlikeFirst, 1)
        }
    }

    /// Without a limit zeros and random numbers are not judged; NaN fails.
    func testNoLimit() async throws {
        try writeKit(limit: "null")
        for (depth, status) in [
            (Self.golden("depth"), Verdict.notJudged), (Self.golden("depth").map { _ in 0 }, .notJudged),
            (Self.golden("depth").map { _ in .nan }, .failed),
        ] {
            StandIn.shared.change { $0.predict = { _, _ in try AppLifeCase.answer(["depth": depth]) } }
            let result = try await check()
            XCTAssertEqual(result.status, status)
            XCTAssertFalse(result.passed)
            XCTAssertFalse(result.failures.isEmpty)
        }
    }

    /// A limit that lets everything or nothing pass is refused before a model is loaded.
    func testSenselessLimits() async throws {
        for limit in ["0", "-300", "201", "1e3"] {
            try writeKit(limit: limit)
            await assertKitError(.damagedFile, limit) { try await self.check() }
        }
        XCTAssertEqual(StandIn.shared.figure("loads"), 0)
    }

    /// A compute plan that fails costs the placement only; it is made without the model in memory.
    func testFailedPlan() async throws {
        StandIn.shared.change { $0.plan = { _ in throw NSError(domain: "com.apple.CoreML", code: 5) } }
        let result = try await check()
        XCTAssertEqual(result.status, .passed)
        XCTAssertNil(result.placement)
        XCTAssertTrue(try XCTUnwrap(result.placementError).contains("com.apple.CoreML 5"))
        XCTAssertEqual(StandIn.shared.figure("models beside a plan"), 0)
    }

    /// The thermal state is taken before and after, low-power mode is noticed.
    func testStateOfTheDevice() async throws {
        StandIn.shared.count("low power")
        StandIn.shared.change { $0.predict = { _, number in
            if number == 4 { StandIn.shared.count("thermal state", 2) }
            return try AppLifeCase.answer()
        } }
        let result = try await check()
        XCTAssertEqual(result.thermal, ThermalStates(before: "nominal", after: "serious"))
        XCTAssertTrue(result.lowPowerMode)
    }

    /// Senseless numbers of runs are found before minutes have passed; golden frames of another kit are refused.
    func testSenselessRuns() async throws {
        for (warm, measured) in [(1, 0), (1, -1), (-1, 3)] {
            let check = DeviceCheck(folder: folder, cache: cache, warmUpRuns: warm, measuredRuns: measured)
            await assertKitError(.wrongInput) { try await check.run() }
        }
        XCTAssertEqual(StandIn.shared.figure("loads"), 0)
        let model = try await load()
        let golden = try GoldenTensors(kit: Kit(folder: folder), folder: folder)
        let check = DeviceCheck(folder: folder, cache: cache, measuredRuns: 2)
        let latency = try await check.measure(model, golden: golden)
        XCTAssertEqual(latency.runs, 2)
        let other = try goldenOfATurnedKit()
        await assertKitError(.wrongInput) { try await check.measure(model, golden: other) }
    }

    /// As many values in another shape.
    private func goldenOfATurnedKit() throws -> GoldenTensors {
        let json = try String(contentsOf: folder.appendingPathComponent("kit.json"), encoding: .utf8)
            .replacingOccurrences(of: "14, 28]", with: "28, 14]")
            .replacingOccurrences(of: "\"height\": 14, \"width\": 28", with: "\"height\": 28, \"width\": 14")
        var file = try Data(contentsOf: folder.appendingPathComponent("golden.safetensors"))
        while let place = file.range(of: Data("14, 28]".utf8)) {
            file.replaceSubrange(place, with: Data("28, 14]".utf8))
        }
        return try GoldenTensors(file: SafetensorsFile(data: file), kit: Kit(json: Data(json.utf8)))
    }

    /// A file of the package that was changed is named; a cancelled check stops.
    func testChangedFile() async throws {
        try Data("changed".utf8).write(to: folder.appendingPathComponent("vggt.mlpackage/Manifest.json"))
        await assertKitError(.damagedFile) { try await self.check() }
        try writeKit()
        StandIn.shared.hold(.prediction)
        let task = Task { [folder, cache] in try await DeviceCheck(folder: folder, cache: cache).run() }
        try await eventually("running") { StandIn.shared.figure("predicting") == 1 }
        task.cancel()
        StandIn.shared.letAllOn(.prediction)
        do {
            _ = try await task.value
            XCTFail("checked")
        } catch is CancellationError {}
        try await eventually("freed") { StandIn.shared.figure("live MLModel") == 0 }
    }
}
