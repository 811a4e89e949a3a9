import CoreML
import Foundation
import StandIn
import VGGTEdge
import VGGTEdgeCore
import XCTest

/// Predictions that wait, are cancelled, lose their memory or their files, or bring back nonsense.
final class PredictingTests: AppLifeCase {
    /// Cancelled predictions throw while the one that began still runs; those that wait never run.
    func testCancelledPredictions() async throws {
        let model = try await load()
        StandIn.shared.hold(.prediction)
        let tasks = (0..<6).map { _ in Task { try await model.predict(images: Self.images) } }
        try await eventually("running") { StandIn.shared.figure("predicting") == 1 }
        XCTAssertTrue(model.isBusy)
        for task in tasks { task.cancel() }
        for task in tasks {
            do {
                _ = try await task.value
                XCTFail("predicted")
            } catch is CancellationError {}
        }
        XCTAssertEqual(StandIn.shared.figure("predicting"), 1)
        StandIn.shared.letAllOn(.prediction)
        try await eventually("idle") { !model.isBusy }
        XCTAssertEqual(StandIn.shared.figure("predictions"), 1)
        _ = try await model.predict(images: Self.images)
    }

    /// Predictions of many tasks run one at a time, and all of them end.
    func testOneAtATime() async throws {
        let model = try await load()
        StandIn.shared.change { $0.predict = { _, _ in
            Thread.sleep(forTimeInterval: 0.01)
            return try AppLifeCase.answer()
        } }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<10 { group.addTask { _ = try await model.predict([Self.picture(), Self.picture()]) } }
            try await group.waitForAll()
        }
        XCTAssertEqual(StandIn.shared.peak("predicting"), 1)
        XCTAssertEqual(StandIn.shared.figure("predictions"), 10)
        XCTAssertFalse(model.isBusy)
    }

    /// `unload` returns while a prediction runs and frees when that has ended, before those that wait.
    func testUnload() async throws {
        let model = try await load()
        StandIn.shared.hold(.prediction)
        let tasks = (0..<3).map { _ in Task { try await model.predict(images: Self.images) } }
        try await eventually("running") { StandIn.shared.figure("predicting") == 1 }
        model.unload()
        XCTAssertEqual(StandIn.shared.figure("predicting"), 1)
        StandIn.shared.letOn(.prediction)
        await model.unloadAndWait()
        // The first has ended. The second may have begun with a model loaded anew, and is held.
        XCTAssertLessThanOrEqual(StandIn.shared.figure("predictions"), 2)
        StandIn.shared.letAllOn(.prediction)
        for task in tasks { _ = try await task.value }
        XCTAssertGreaterThanOrEqual(StandIn.shared.figure("loads"), 2)
        XCTAssertEqual(StandIn.shared.figure("predictions"), 3)
        await model.unloadAndWait()
        XCTAssertEqual(StandIn.shared.figure("live MLModel"), 0)
    }

    /// After `unload` and a purge of the compiled models the next prediction compiles again.
    func testPurgeAfterUnload() async throws {
        let model = try await load()
        await model.unloadAndWait()
        try FileManager.default.removeItem(at: cacheFolder)
        _ = try await model.predict(images: Self.images)
        XCTAssertEqual(StandIn.shared.figure("compiles"), 2)
        try cache.removeModels()
        _ = try await model.predict(images: Self.images)
    }

    /// A model that nobody holds any more is freed, also while its prediction runs.
    func testReleasedModel() async throws {
        StandIn.shared.hold(.prediction)
        let task = try await runningPrediction()
        StandIn.shared.letAllOn(.prediction)
        _ = try await task.value
        try await eventually("freed") { StandIn.shared.figure("live MLModel") == 0 }
        try await eventually("arrays freed") { StandIn.shared.figure("live MLMultiArray") == 0 }
    }

    private func runningPrediction() async throws -> Task<Int, any Error> {
        let (folder, cache) = (folder, cache)
        let task = Task {
            try await VGGTModel.load(from: folder, cache: cache).predict(images: AppLifeCase.images).frames
        }
        try await eventually("running") { StandIn.shared.figure("predicting") == 1 }
        return task
    }

    /// The frames are those of the call: what the caller does with its list later changes nothing.
    func testInputsAreTakenAtTheCall() async throws {
        let model = try await load()
        StandIn.shared.change { $0.predict = { input, _ in
            guard let features = input as? any MLFeatureProvider,
                let array = features.featureValue(for: "images")?.multiArrayValue
            else { return try AppLifeCase.answer() }
            let first = array.withUnsafeBytes { $0.bindMemory(to: Float.self)[0] }
            return try AppLifeCase.answer(["depth": AppLifeCase.golden("depth").map { _ in first }])
        } }
        var images = Self.images
        images[0] = 0.25
        let prediction = Task { [images] in try await model.predict(images: images) }
        images = []
        let depth = try await prediction.value.depth?.values() ?? []
        XCTAssertEqual(depth.first, 0.25)
    }

    /// NaN, infinity and levels that were not divided are no pictures, for a tensor model too.
    func testValuesThatAreNoPictures() async throws {
        for kind in ["tensor", "image"] {
            try writeKit(kind: kind)
            StandIn.shared.change { $0.inputs = kind == "tensor" ? ["images"] : ["image_0", "image_1"] }
            let model = try await load()
            for bad in [Float.nan, .infinity, -0.1, 255] {
                var images = Self.images
                images[7] = bad
                await assertKitError(.wrongInput, "\(bad)") { try await model.predict(images: images) }
            }
            await assertKitError(.wrongInput) { try await model.predict(images: []) }
            await assertKitError(.wrongInput) { try await model.predict([]) }
            _ = try await model.predict(images: Self.images)
        }
    }

    /// Memory one value short is an error by every way out; gaps, float16 and one missing output, too.
    func testOutputsInMemory() async throws {
        let model = try await load()
        let shape = try XCTUnwrap(Self.shapes["depth"])
        func predicted(_ depth: MLMultiArray?) async throws -> Prediction {
            let box = Box(depth)
            StandIn.shared.change { $0.predict = { _, _ in
                var arrays = try ["pose_enc", "depth_conf"].reduce(into: [String: MLMultiArray]()) {
                    $0[$1] = try AppLifeCase.array($1, AppLifeCase.golden($1))
                }
                arrays["depth"] = box.array
                return try AppLifeCase.features(arrays)
            } }
            return try await model.predict(images: Self.images)
        }
        let plain = [2 * 14 * 28, 14 * 28, 28, 1]
        let short = MLMultiArray(shape: shape, dataType: .float32, strides: plain, elements: 2 * 14 * 28 - 1)
        let found = try await predicted(short).depth
        let cut = try XCTUnwrap(found)
        XCTAssertThrowsError(try cut.values())
        XCTAssertThrowsError(try cut.withValues { $0.count })

        let strides = [2 * 14 * 32, 14 * 32, 32, 1]
        let gaps = MLMultiArray(shape: shape, dataType: .float32, strides: strides)
        gaps.withUnsafeMutableBytes { bytes, _ in
            let values = bytes.bindMemory(to: Float.self)
            for (index, value) in Self.golden("depth").enumerated() { values[index / 28 * 32 + index % 28] = value }
        }
        let padded = try await predicted(gaps).depth
        XCTAssertEqual(try padded?.values(), Self.golden("depth"))
        XCTAssertEqual(try padded?.withValues { Array($0) }, Self.golden("depth"))

        let half = MLMultiArray(shape: shape, dataType: .float16, strides: plain)
        half.withUnsafeMutableBytes { bytes, _ in
            let values = bytes.bindMemory(to: UInt16.self)
            for index in 0..<(2 * 14 * 28) { values[index] = 0x3C00 }
        }
        let widened = try await predicted(half).depth
        XCTAssertEqual(Set(try widened?.values() ?? []), [1])

        let double = MLMultiArray(shape: shape, dataType: .double, strides: plain)
        let turned = MLMultiArray(shape: [1, 2, 28, 14], dataType: .float32, strides: plain)
        for wrong in [double, turned, nil] {
            let box = Box(wrong)
            await assertKitError(.unusableOutput) { try await predicted(box.array) }
        }
    }

    /// A prediction that throws is the kit's error with Core ML's inside, and the next one runs.
    func testFailedPrediction() async throws {
        let model = try await load()
        let answer = StandIn.shared.behaviour.predict
        StandIn.shared.change { $0.predict = { _, _ in throw NSError(domain: "com.apple.CoreML", code: 11) } }
        do {
            _ = try await model.predict(images: Self.images)
            XCTFail("predicted")
        } catch let error as KitError {
            XCTAssertEqual(error.kind, .modelFailed)
            XCTAssertEqual((error.underlying as NSError?)?.code, 11)
        }
        StandIn.shared.change { $0.predict = answer }
        _ = try await model.predict(images: Self.images)
        XCTAssertFalse(model.isBusy)
    }

    /// NaN in a map is an error of the point cloud, not a point; a share needs a confidence.
    func testPointClouds() async throws {
        let model = try await load()
        let whole = try await model.predict(images: Self.images)
        XCTAssertEqual(try whole.pointCloud(keeping: 1).count, 2 * Self.size.pixelCount)
        XCTAssertLessThan(try whole.pointCloud(keeping: 0.5).count, 2 * Self.size.pixelCount)
        for name in ["depth", "depth_conf", "pose_enc"] {
            var values = Self.golden(name)
            values[3] = .nan
            StandIn.shared.change { [values] in $0.predict = { _, _ in try AppLifeCase.answer([name: values]) } }
            await assertKitError(.unusableOutput, name) { try await model.predict(images: Self.images).pointCloud() }
        }
    }

    /// Memory is flat over many predictions.
    func testMemoryStaysFlat() async throws {
        let model = try await load()
        for _ in 0..<50 { _ = try await model.predict(images: Self.images) }
        await model.unloadAndWait()
        try await eventually("arrays freed") { StandIn.shared.figure("live MLMultiArray") == 0 }
    }
}

/// Hands an array to another thread; nobody writes to it any more.
private struct Box: @unchecked Sendable {
    let array: MLMultiArray?

    init(_ array: MLMultiArray?) { self.array = array }
}
