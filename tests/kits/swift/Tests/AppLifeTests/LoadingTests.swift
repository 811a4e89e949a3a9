import CoreML
import Foundation
import StandIn
import VGGTEdge
import VGGTEdgeCore
import XCTest

/// Compiling, keeping and loading models, as apps do it: twice at once, cancelled, on a full disk, after an update.
final class LoadingTests: AppLifeCase {
    /// Eight loads at once share one compilation, and leave one copy.
    func testOneCompilationForAllThatWait() async throws {
        StandIn.shared.change { $0.compileSeconds = 0.1 }
        try await withThrowingTaskGroup(of: Void.self) { [folder, cache] group in
            for _ in 0..<8 { group.addTask { _ = try await VGGTModel.load(from: folder, cache: cache) } }
            try await group.waitForAll()
        }
        XCTAssertEqual(StandIn.shared.figure("compiles"), 1)
        XCTAssertEqual(StandIn.shared.peak("loading"), 1)
        XCTAssertEqual(keptModels.count, 1)
        XCTAssertEqual(leftovers, [])
    }

    /// The second start compiles nothing.
    func testSecondStart() async throws {
        _ = try await load()
        _ = try await load()
        XCTAssertEqual(StandIn.shared.figure("compiles"), 1)
    }

    /// Two loads that meet a compiled model which does not load any more compile it once, and both get a model.
    func testUnusableCompiledModel() async throws {
        _ = try await load()
        let kept = try XCTUnwrap(keptModels.first)
        let package = cacheFolder.appendingPathComponent(kept).appendingPathComponent("package")
        try FileManager.default.removeItem(at: package)
        let loads = (0..<2).map { _ in
            Task { [folder, cache] in try await VGGTModel.load(from: folder, cache: cache) }
        }
        for load in loads { _ = try await load.value }
        XCTAssertEqual(StandIn.shared.figure("compiles"), 2)
        XCTAssertEqual(keptModels.count, 1)
        XCTAssertEqual(leftovers, [])
    }

    /// A load that fails while the model is loaded elsewhere fails by itself: nothing is compiled, nothing is deleted.
    func testModelInUseIsNotReplaced() async throws {
        let first = try await load()
        StandIn.shared.change { $0.load = { _, _ in throw NSError(domain: "com.apple.CoreML", code: 9) } }
        await assertKitError(.modelFailed) { try await self.load() }
        XCTAssertEqual(StandIn.shared.figure("compiles"), 1)
        try cache.removeModels()
        XCTAssertEqual(keptModels.count, 1)
        _ = try await first.predict(images: Self.images)
    }

    /// A package that cannot be compiled is compiled once; the error of Core ML comes along.
    func testPackageThatCannotBeCompiled() async throws {
        StandIn.shared.change { $0.compile = { _, _ in throw NSError(domain: "com.apple.CoreML", code: 4) } }
        do {
            _ = try await load()
            XCTFail("loaded")
        } catch let error as KitError {
            XCTAssertEqual(error.kind, .modelFailed)
            let cause = try XCTUnwrap(error.underlying) as NSError
            XCTAssertEqual(cause.domain, "com.apple.CoreML")
            XCTAssertEqual(cause.code, 4)
            XCTAssertTrue("\(error)".contains("com.apple.CoreML 4"), "\(error)")
        }
        XCTAssertEqual(StandIn.shared.figure("compiles"), 1)
    }

    /// A cancelled load returns while it compiles and leaves no model in memory; its compilation serves the next one.
    func testCancelledLoad() async throws {
        StandIn.shared.hold(.compilation)
        let task = Task { [folder, cache] in try await VGGTModel.load(from: folder, cache: cache) }
        try await eventually("compiling") { StandIn.shared.figure("compiles") == 1 }
        task.cancel()
        do {
            _ = try await task.value
            XCTFail("loaded")
        } catch is CancellationError {}
        StandIn.shared.letAllOn(.compilation)
        _ = try await load()
        XCTAssertEqual(StandIn.shared.figure("compiles"), 1)
        try await eventually("only the second model") { StandIn.shared.figure("live MLModel") <= 1 }
        XCTAssertEqual(StandIn.shared.figure("loads"), 1)
        XCTAssertEqual(leftovers, [])
    }

    /// A cache that cannot be written costs one copy in the temporary folder, not one more at every start.
    func testUnwritableCache() async throws {
        try Data().write(to: cacheFolder)
        for _ in 0..<3 { _ = try await load() }
        XCTAssertEqual(StandIn.shared.figure("compiles"), 1)
        XCTAssertEqual(leftovers, [])
        let fallback = FileManager.default.temporaryDirectory.appendingPathComponent("VGGTEdge")
        XCTAssertEqual(entries(under: fallback).filter { $0.hasSuffix(".mlmodelc") }.count, 1)
        try FileManager.default.removeItem(at: fallback)
    }

    /// A full disk is Core ML's error, handed on; with space again the load works.
    func testFullDisk() async throws {
        let full = NSError(domain: NSCocoaErrorDomain, code: 640)
        StandIn.shared.change { $0.compile = { _, number in if number == 1 { throw full } } }
        await assertKitError(.modelFailed) { try await self.load() }
        _ = try await load()
        XCTAssertEqual(leftovers, [])
    }

    /// A new version in the same place replaces the old one; a kit elsewhere stays.
    func testOlderVersionsAreRemoved() async throws {
        let elsewhere = home.appendingPathComponent("other kit")
        try FileManager.default.copyItem(at: folder, to: elsewhere)
        _ = try await VGGTModel.load(from: elsewhere, cache: cache)
        _ = try await load()
        let before = keptModels
        XCTAssertEqual(before.count, 2)
        try writeKit(version: 2)
        _ = try await load()
        XCTAssertEqual(keptModels.count, 2)
        XCTAssertNotEqual(keptModels, before)
        _ = try await VGGTModel.load(from: elsewhere, cache: cache)
        XCTAssertEqual(StandIn.shared.figure("compiles"), 3)
        try cache.removeModels(except: Kit(folder: folder))
        XCTAssertEqual(keptModels.count, 1)
        try cache.removeModels()
        XCTAssertEqual(entries(under: cacheFolder), [])
    }

    /// A model that Xcode compiled is used as it is, and never compiled again.
    func testModelBuiltIntoApp() async throws {
        let built = folder.appendingPathComponent("vggt.mlmodelc")
        try FileManager.default.createDirectory(at: built, withIntermediateDirectories: true)
        try FileManager.default.moveItem(
            at: folder.appendingPathComponent("vggt.mlpackage"), to: built.appendingPathComponent("package")
        )
        let model = try await load()
        XCTAssertEqual(model.compiledModel.lastPathComponent, "vggt.mlmodelc")
        StandIn.shared.change { $0.load = { _, _ in throw NSError(domain: "com.apple.CoreML", code: 9) } }
        await assertKitError(.modelFailed) { try await self.load() }
        XCTAssertEqual(StandIn.shared.figure("compiles"), 0)
    }

    /// A model without a plan digest, or with another one, is not the kit's.
    func testModelOfAnotherPlan() async throws {
        for metadata in [nil, [:], ["vggt_edge.plan_digest": String(repeating: "6", count: 64)]] {
            StandIn.shared.change { $0.metadata = metadata }
            await assertKitError(.damagedFile) { try await self.load() }
        }
        StandIn.shared.change { $0.metadata = ["vggt_edge.plan_digest": Self.digest] }
        StandIn.shared.change { $0.outputs = ["depth"] }
        await assertKitError(.damagedFile) { try await self.load() }
        XCTAssertEqual(StandIn.shared.figure("live MLModel"), 0)
    }

    /// The app sees each stage, and its changes of the configuration reach Core ML.
    func testProgressAndConfiguration() async throws {
        let log = Log()
        let model = try await VGGTModel.load(
            from: folder,
            computeUnits: .cpuAndGPU,
            cache: cache,
            progress: { log.add($0.rawValue) },
            configure: { configuration in
                log.add("\(configuration.computeUnits)")
                configuration.optimizationHints.specializationStrategy = .fastPrediction
            }
        )
        XCTAssertEqual(log.lines, ["compiling", "loading", "cpuAndGPU"])
        XCTAssertEqual(model.computeUnits, .cpuAndGPU)
    }

    /// After a prewarm nothing is in memory, and the next load compiles nothing.
    func testPrewarm() async throws {
        let log = Log()
        try await VGGTModel.prewarm(from: folder, cache: cache) { log.add($0.rawValue) }
        XCTAssertEqual(log.lines, ["compiling", "loading", "firstPrediction"])
        XCTAssertEqual(StandIn.shared.figure("predictions"), 1)
        try await eventually("memory given back") { StandIn.shared.figure("live MLModel") == 0 }
        _ = try await load()
        XCTAssertEqual(StandIn.shared.figure("compiles"), 1)
    }

    /// A system that is too old is named before anything is compiled.
    func testOldSystem() async throws {
        StandIn.shared.count("system version", 16)
        await assertKitError(.unsupported) { try await self.load() }
        XCTAssertEqual(StandIn.shared.figure("compiles"), 0)
    }
}

/// Lines from any thread.
final class Log: @unchecked Sendable {
    private let lock = NSLock()
    private var all = [String]()

    var lines: [String] { lock.withLock { all } }

    func add(_ line: String) { lock.withLock { all.append(line) } }
}
