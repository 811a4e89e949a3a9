import CoreML
import Foundation
import StandIn
import VGGTEdge
import VGGTEdgeCore
import XCTest

/// A small kit in a folder of its own, and a stand-in for Core ML that answers as the test says.
class AppLifeCase: XCTestCase {
    static let frames = 2
    static let size = FrameSize(width: 28, height: 14)
    static let digest = String(repeating: "5", count: 64)

    private(set) var home = URL(fileURLWithPath: "/")
    var folder: URL { home.appendingPathComponent("kit") }
    var cacheFolder: URL { home.appendingPathComponent("cache") }
    var cache: CompiledModelCache { CompiledModelCache(folder: cacheFolder) }

    override func setUp() async throws {
        home = FileManager.default.temporaryDirectory.appendingPathComponent("life-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: home, withIntermediateDirectories: true)
        StandIn.shared.reset()
        StandIn.shared.change { $0.metadata = ["vggt_edge.plan_digest": Self.digest] }
        StandIn.shared.change { $0.predict = { _, _ in try AppLifeCase.answer() } }
        try writeKit()
    }

    override func tearDown() async throws {
        StandIn.shared.reset()
        try? FileManager.default.removeItem(at: home)
    }

    // MARK: - The kit

    static let shapes = ["pose_enc": [1, frames, 9], "depth": [1, frames, 14, 28], "depth_conf": [1, frames, 14, 28]]

    /// What the simulation gave: no two values are equal.
    static func golden(_ name: String) -> [Float] {
        let count = shapes[name]?.reduce(1, *) ?? 0
        return (0..<count).map { 1 + Float($0 % 97) / 64 }
    }

    static let images: [Float] = (0..<(frames * 3 * size.pixelCount)).map { Float($0 % 256) / 255 }

    /// - Parameter version: Another number is another content of the package.
    func writeKit(limit: String = "30.0", version: Int = 1, kind: String = "tensor", images: [Float]? = nil) throws {
        let package = folder.appendingPathComponent("vggt.mlpackage")
        try FileManager.default.createDirectory(at: package, withIntermediateDirectories: true)
        let manifest = Data("version \(version)".utf8)
        try manifest.write(to: package.appendingPathComponent("Manifest.json"))
        let golden = try writeGolden(images: images ?? Self.images)
        let outputs = Self.shapes.keys.sorted().map { "{\"name\": \"\($0)\", \"shape\": \(Self.shapes[$0] ?? [])}" }
        let text = """
            {"schema_version": 1, "target": "ios-ar", "plan_digest": "\(Self.digest)",
             "model": {"package": "vggt.mlpackage", "sha256": "\(digest(Data("\(version)".utf8)))",
                       "files": {"Manifest.json": "\(digest(manifest))"}, "compute_units": "all",
                       "minimum_os": {"ios": 17, "macos": 14, "visionos": 1}},
             "input": {"kind": "\(kind)", "frames": 2, "height": 14, "width": 28},
             "outputs": [\(outputs.joined(separator: ", "))],
             "blocks": [{"block": "frame_blocks.0", "scheme": "w4a16"}],
             "tolerances": {"backend_sqnr_db_min": \(limit), "pose_degrees_max": null},
             "golden": {"file": "golden.safetensors", "sha256": "\(golden)"}}
            """
        try Data(text.utf8).write(to: folder.appendingPathComponent("kit.json"))
    }

    private func writeGolden(images: [Float]) throws -> String {
        let named = [("input/images", [1, Self.frames, 3, 14, 28], images)]
            + Self.shapes.sorted { $0.key < $1.key }.map { ("simulation/\($0.key)", $0.value, Self.golden($0.key)) }
        var (header, payload) = ([String](), Data())
        for (name, shape, values) in named {
            let start = payload.count
            values.withUnsafeBytes { payload.append(contentsOf: $0) }
            let place = "\"shape\": \(shape), \"data_offsets\": [\(start), \(payload.count)]"
            header.append("\"\(name)\": {\"dtype\": \"F32\", \(place)}")
        }
        let text = Data("{\(header.joined(separator: ", "))}".utf8)
        let file = withUnsafeBytes(of: UInt64(text.count).littleEndian) { Data($0) } + text + payload
        try file.write(to: folder.appendingPathComponent("golden.safetensors"))
        return digest(file)
    }

    private func digest(_ data: Data) -> String { TestDigest.sha256(of: data) }

    // MARK: - Answers of the model

    /// The golden outputs, some of them changed.
    static func answer(_ changed: [String: [Float]] = [:]) throws -> MLDictionaryFeatureProvider {
        try features(shapes.keys.reduce(into: [:]) { $0[$1] = try array($1, changed[$1] ?? golden($1)) })
    }

    static func features(_ arrays: [String: MLMultiArray]) throws -> MLDictionaryFeatureProvider {
        try MLDictionaryFeatureProvider(dictionary: arrays.mapValues { MLFeatureValue(multiArray: $0) })
    }

    static func array(_ name: String, _ values: [Float]) throws -> MLMultiArray {
        let shape = (shapes[name] ?? []).map { NSNumber(value: $0) }
        let array = try MLMultiArray(shape: shape, dataType: .float32)
        array.withUnsafeMutableBytes { bytes, _ in _ = bytes.bindMemory(to: Float.self).update(fromContentsOf: values) }
        return array
    }

    // MARK: - Shorthands

    func load() async throws -> VGGTModel { try await VGGTModel.load(from: folder, cache: cache) }

    func check(runs: Int = 3) async throws -> CheckResult {
        try await DeviceCheck(folder: folder, cache: cache, warmUpRuns: 1, measuredRuns: runs).run()
    }

    static func picture() throws -> RGBImage {
        try RGBImage(size: size, pixels: [UInt8](repeating: 100, count: 3 * size.pixelCount))
    }

    /// Fails unless `body` throws a `KitError` of that kind.
    func assertKitError(
        _ kind: KitError.Kind,
        _ message: String = "",
        file: StaticString = #filePath,
        line: UInt = #line,
        _ body: () async throws -> some Any
    ) async {
        do {
            _ = try await body()
            XCTFail("no error \(message)", file: file, line: line)
        } catch let error as KitError {
            XCTAssertEqual(error.kind, kind, "\(message): \(error)", file: file, line: line)
        } catch {
            XCTFail("\(message): \(error) is no KitError", file: file, line: line)
        }
    }

    /// Everything under a folder, files and folders.
    func entries(under folder: URL) -> [String] {
        FileManager.default.enumerator(atPath: folder.path)?.compactMap { $0 as? String }.sorted() ?? []
    }

    /// The compiled models that are kept.
    var keptModels: [String] { entries(under: cacheFolder).filter { $0.hasSuffix(".mlmodelc") } }

    /// What compiling has left in the temporary folder.
    var leftovers: [String] {
        let temporary = FileManager.default.temporaryDirectory
        let names = (try? FileManager.default.contentsOfDirectory(atPath: temporary.path)) ?? []
        return names.filter { $0.hasPrefix("compiled-") }
    }

    /// Waits for what other tasks bring about.
    func eventually(
        _ what: String, file: StaticString = #filePath, line: UInt = #line, _ condition: () -> Bool
    ) async throws {
        for _ in 0..<6000 where !condition() { try await Task.sleep(for: .milliseconds(10)) }
        XCTAssertTrue(condition(), what, file: file, line: line)
    }
}
