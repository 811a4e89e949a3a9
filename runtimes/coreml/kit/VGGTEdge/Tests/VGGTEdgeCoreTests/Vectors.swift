import Foundation
import VGGTEdgeCore
import XCTest

/// Inputs and answers that the exporter's own Python code gave: `Resources/vectors.json`. Not to be edited by hand.
struct Vectors: Decodable {
    let poses: [Pose]
    let quaternionSigns: [QuaternionSigns]
    let sizes: [Size]
    let intrinsics: [ResizedIntrinsics]
    let resizes: [Resize]
    let turns: [Turn]
    let colors: [Color]
    let drifts: [DriftCase]
    let unprojections: [Unprojection]
    let confidences: [Confidence]
    let latencies: [LatencyCase]
    let safetensors: [SafetensorsCase]
    let kit: Data
    let golden: Data

    enum CodingKeys: String, CodingKey {
        case poses
        case quaternionSigns = "quaternion_signs"
        case sizes
        case intrinsics
        case resizes
        case turns
        case colors
        case drifts
        case unprojections
        case confidences
        case latencies
        case safetensors
        case kit
        case golden
    }

    /// An encoding and the cameras it stands for.
    struct Pose: Decodable {
        let encoding: [Float]
        let size: FrameSize
        let extrinsics: [[Double]]
        let intrinsics: [[Double]]
        let centers: [[Double]]
    }

    /// Encodings before and after their quaternions were put on the reference's side.
    struct QuaternionSigns: Decodable {
        let values: [Float]
        let reference: [Float]
        let aligned: [Float]
    }

    /// A frame and the model input that fits it.
    struct Size: Decodable {
        let frame: FrameSize
        let longSide: Int
        let fitting: FrameSize

        enum CodingKeys: String, CodingKey {
            case frame
            case longSide = "long_side"
            case fitting
        }
    }

    /// Intrinsics (focal x, focal y, centre x, centre y) before and after a resize.
    struct ResizedIntrinsics: Decodable {
        let source: FrameSize
        let target: FrameSize
        let before: [Double]
        let after: [Double]
    }

    /// A picture and what the exporter's reader makes of it.
    struct Resize: Decodable {
        let source: FrameSize
        let pixels: Data
        let target: FrameSize
        let resized: Data
    }

    /// A picture and how it looks turned.
    struct Turn: Decodable {
        let source: FrameSize
        let pixels: Data
        let turn: QuarterTurn
        let turned: Data
    }

    /// YCbCr triples and their RGB, exact to one level.
    struct Color: Decodable {
        let matrix: YCbCrEncoding.Matrix
        let levels: YCbCrEncoding.Levels
        let ycbcr: [[UInt8]]
        let rgb: [[UInt8]]
    }

    /// Two arrays and how far they are apart.
    struct DriftCase: Decodable {
        let values: [Float]
        let reference: [Float]
        let drift: Drift
    }

    /// Depth maps and their world points.
    struct Unprojection: Decodable {
        let encoding: [Float]
        let size: FrameSize
        let depth: [Float]
        let points: [Float]
    }

    /// Confidence maps and the pixels that are kept.
    struct Confidence: Decodable {
        let maps: [[Float]]
        let keep: [Bool]
    }

    /// Times and their quantiles.
    struct LatencyCase: Decodable {
        let milliseconds: [Double]
        let latency: Latency
    }

    /// A file, good or hostile, and the one tensor that a good one holds.
    struct SafetensorsCase: Decodable {
        let name: String
        let file: Data
        let shape: [Int]?
        let values: [Float]?
    }

    /// Reads the resource of this test bundle.
    static func load() throws -> Vectors {
        let url = try XCTUnwrap(Bundle.module.url(forResource: "vectors", withExtension: "json"))
        return try JSONDecoder().decode(Vectors.self, from: Data(contentsOf: url))
    }
}

/// Fails unless two lists have the same length and no entries differ by more than the accuracy.
func assertEqual(
    _ first: [Double],
    _ second: [Double],
    accuracy: Double,
    file: StaticString = #filePath,
    line: UInt = #line
) {
    XCTAssertEqual(first.count, second.count, file: file, line: line)
    for (ours, theirs) in zip(first, second) {
        XCTAssertEqual(ours, theirs, accuracy: accuracy, file: file, line: line)
    }
}
