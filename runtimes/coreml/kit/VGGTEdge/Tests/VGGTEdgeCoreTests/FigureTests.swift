import Foundation
import XCTest

@testable import VGGTEdgeCore

/// Drift, latency and strided memory.
final class FigureTests: XCTestCase {
    /// All six figures are those of the exporter's metrics.
    func testDrifts() throws {
        for example in try Vectors.load().drifts {
            let drift = try Drift(of: example.values, from: example.reference)
            let (ours, theirs) = (drift, example.drift)
            XCTAssertEqual(ours.cosine, theirs.cosine, accuracy: 1e-9)
            XCTAssertEqual(ours.sqnrDB, theirs.sqnrDB, accuracy: 1e-9)
            XCTAssertEqual(ours.maxAbs, theirs.maxAbs, accuracy: 1e-12)
            XCTAssertEqual(ours.p99Abs, theirs.p99Abs, accuracy: 1e-12)
            XCTAssertEqual(ours.maxRel, theirs.maxRel, accuracy: 1e-9)
            XCTAssertEqual(ours.p99Rel, theirs.p99Rel, accuracy: 1e-9)
        }
    }

    /// What cannot be compared is an error.
    func testNothingToCompare() {
        XCTAssertThrowsError(try Drift(of: [], from: []))
        XCTAssertThrowsError(try Drift(of: [1], from: [1, 2]))
        XCTAssertThrowsError(try Drift(of: [.infinity], from: [1]))
    }

    /// Quantiles are those of the Jetson kit: nearest rank.
    func testLatencies() throws {
        for example in try Vectors.load().latencies {
            XCTAssertEqual(try Latency(milliseconds: example.milliseconds), example.latency)
        }
        XCTAssertThrowsError(try Latency(milliseconds: []))
    }

    /// Padded rows are skipped; memory that ends too soon is an error.
    func testStridedMemory() throws {
        let memory = (0..<12).map { Float($0) }
        let padded = try StridedLayout(shape: [1, 3, 2], strides: [99, 4, 1])
        XCTAssertFalse(padded.isContiguous)
        let plain = try StridedLayout(shape: [1, 3, 4], strides: [12, 4, 1])
        XCTAssertTrue(plain.isContiguous)
        try memory.withUnsafeBufferPointer { buffer in
            XCTAssertEqual(try padded.gather(buffer), [0, 1, 4, 5, 8, 9])
            XCTAssertEqual(try plain.gather(buffer), memory)
            let tooFar = try StridedLayout(shape: [4, 4], strides: [4, 1])
            XCTAssertThrowsError(try tooFar.gather(buffer))
        }
        XCTAssertThrowsError(try StridedLayout(shape: [2], strides: [1, 1]))
        XCTAssertThrowsError(try StridedLayout(shape: [2], strides: [-1]))
    }

    /// The result is written with sorted keys and read back unchanged.
    func testResult() throws {
        let kit = try Kit(json: Vectors.load().kit)
        let golden = try GoldenTensors(file: SafetensorsFile(data: Vectors.load().golden), kit: kit)
        let depth = try XCTUnwrap(golden.simulation["depth"]).values
        let result = CheckResult(
            kit: kit,
            device: DeviceDescription(model: "iPhone17,1", system: "18.0", thermalState: "fair", isSimulator: false),
            computeUnits: .all,
            accuracy: [try OutputAccuracy(of: "depth", values: depth, golden: golden, tolerances: kit.tolerances)],
            latency: try Latency(milliseconds: [1, 2]),
            loadSeconds: 1.5,
            peakMemoryBytes: 7,
            placement: nil
        )
        XCTAssertTrue(result.passed)
        XCTAssertEqual(result.failures, "")
        XCTAssertEqual(try JSONDecoder().decode(CheckResult.self, from: result.json()), result)
        XCTAssertEqual(try result.json(), try result.json())
    }
}
