import Foundation
import XCTest

@testable import VGGTEdgeCore

/// Drift, latency and strided memory.
final class FigureTests: XCTestCase {
    /// All six figures are those of the exporter's metrics.
    func testDrifts() throws {
        for example in try Vectors.load().drifts {
            let drift = try Drift(of: example.values, from: example.reference)
            let encoded = try JSONEncoder().encode(drift)
            let figures = try JSONDecoder().decode([String: Double].self, from: encoded)
            XCTAssertEqual(Set(figures.keys), Set(example.drift.keys))
            for (name, theirs) in example.drift {
                assertEqual(try XCTUnwrap(figures[name]), theirs, relative: 1e-12)
            }
        }
    }

    /// Selecting a rank gives what sorting gives, for values in any order and with many ties.
    func testPercentiles() {
        var state: UInt64 = 7
        func random(_ bound: Int) -> Double {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Double(Int(state >> 33) % bound)
        }
        for count in [1, 2, 3, 31, 32, 33, 100, 1000] {
            for bound in [1, 2, 1000] {
                let random = (0..<count).map { _ in random(bound) }
                for values in [random, random.sorted(), random.sorted().reversed()] {
                    for share in [0, 0.3, 0.5, 0.99, 1] {
                        let sorted = values.sorted()
                        let position = share * Double(count - 1)
                        let (low, high) = (sorted[Int(position)], sorted[min(Int(position) + 1, count - 1)])
                        let expected = low + (high - low) * (position - Double(Int(position)))
                        var copy = values
                        let found = copy.withUnsafeMutableBufferPointer { Selection.percentile(share, of: $0) }
                        XCTAssertEqual(found, expected, "\(count) values below \(bound), share \(share)")
                    }
                }
            }
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
            let latency = try Latency(milliseconds: example.milliseconds)
            let encoded = try JSONEncoder().encode(latency)
            XCTAssertEqual(try JSONDecoder().decode([String: Double].self, from: encoded), example.latency)
            XCTAssertEqual(latency.minMS, example.milliseconds.min())
            XCTAssertEqual(latency.maxMS, example.milliseconds.max())
        }
        for times in [[.nan], [1, -1], [.infinity], []] as [[Double]] {
            assertKitError(.wrongInput, "\(times)") { try Latency(milliseconds: times) }
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

    /// Sizes and strides that no memory has are errors: no overflow, no deep recursion, no request for terabytes.
    func testAbsurdLayouts() throws {
        let memory: [Float] = [1, 2, 3]
        for (shape, strides) in [
            ([Int.max, Int.max], [1, 1]), ([1 << 40], [0]), ([2, 2], [Int.max, 1]), ([-1], [1]),
            ([Int](repeating: 1, count: 100_000), [Int](repeating: 1, count: 100_000)), ([Int.min], [Int.min]),
        ] {
            assertKitError(.unusableOutput) { try StridedLayout(shape: shape, strides: strides) }
        }
        try memory.withUnsafeBufferPointer { memory in
            XCTAssertEqual(try StridedLayout(shape: [0, 5], strides: [7, 9]).gather(memory), [])
            XCTAssertEqual(try StridedLayout(shape: [], strides: []).gather(memory), [1])
            assertKitError(.unusableOutput) { try StridedLayout(shape: [1 << 30], strides: [0]).gather(memory) }
            XCTAssertEqual(try StridedLayout(shape: [3, 1], strides: [1, 99]).gather(memory), [1, 2, 3])
            assertKitError(.unusableOutput) { try StridedLayout(shape: [4], strides: [1]).gather(memory) }
        }
    }
}
