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
    let framings: [FramingCase]
    let turns: [Turn]
    let colors: [Color]
    let gamuts: [Gamut]
    let alphas: [Alpha]
    let drifts: [DriftCase]
    let poseErrors: [PoseErrorCase]
    let unprojections: [Unprojection]
    let confidences: [Confidence]
    let latencies: [LatencyCase]
    let safetensors: [SafetensorsCase]
    let json: [JSONCase]
    let kit: Data
    let golden: Data

    enum CodingKeys: String, CodingKey {
        case poses
        case quaternionSigns = "quaternion_signs"
        case sizes
        case intrinsics
        case resizes
        case framings
        case turns
        case colors
        case gamuts
        case alphas
        case drifts
        case poseErrors = "pose_errors"
        case unprojections
        case confidences
        case latencies
        case safetensors
        case json
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

    /// A picture as the model's input, and where its pixels went.
    struct FramingCase: Decodable {
        let mode: Preprocess.Mode
        let patch: Int
        let source: FrameSize
        let pixels: Data
        let target: FrameSize
        let framed: Data
        let content: [Int]
        let before: [Double]
        let after: [Double]
        let pictureFromInput: [Double]

        enum CodingKeys: String, CodingKey {
            case mode
            case patch
            case source
            case pixels
            case target
            case framed
            case content
            case before
            case after
            case pictureFromInput = "picture_from_input"
        }
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

    /// Colours in wider primaries and their sRGB, exact to one level.
    struct Gamut: Decodable {
        let space: String
        let levels: [[UInt8]]
        let rgb: [[UInt8]]
    }

    /// RGBA pixels with straight alpha, and what is seen on white.
    struct Alpha: Decodable {
        let source: FrameSize
        let pixels: Data
        let onWhite: Data

        enum CodingKeys: String, CodingKey {
            case source
            case pixels
            case onWhite = "on_white"
        }
    }

    /// Two arrays and how far they are apart: the six figures by their keys in `result.json`.
    struct DriftCase: Decodable {
        let values: [Float]
        let reference: [Float]
        let drift: [String: Double]
    }

    /// Two pose encodings and the largest angles between them, in degrees.
    struct PoseErrorCase: Decodable {
        let values: [Float]
        let reference: [Float]
        let rotation: Double
        let translation: Double
    }

    /// Depth maps and their world points.
    struct Unprojection: Decodable {
        let encoding: [Float]
        let size: FrameSize
        let depth: [Float]
        let centers: PixelCenters
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
        let latency: [String: Double]
    }

    /// A file, good or hostile, and the one tensor that a good one holds.
    struct SafetensorsCase: Decodable {
        let name: String
        let file: Data
        let shape: [Int]?
        let values: [Float]?
    }

    /// A text, and whether all kits accept it or all refuse it.
    struct JSONCase: Decodable {
        let name: String
        let text: Data
        let accepted: Bool
    }

    /// Reads the resource of this test bundle.
    static func load() throws -> Vectors {
        let url = try XCTUnwrap(Bundle.module.url(forResource: "vectors", withExtension: "json"))
        return try JSONDecoder().decode(Vectors.self, from: Data(contentsOf: url))
    }
}

/// Fails unless two numbers agree to a share of the larger one. Stored numbers have all their digits; the last bits of
/// a sine differ between processors.
func assertEqual(
    _ first: Double,
    _ second: Double,
    relative: Double,
    scale: Double = 0,
    file: StaticString = #filePath,
    line: UInt = #line
) {
    let size = max(abs(first), abs(second), scale)
    XCTAssertEqual(first, second, accuracy: relative * size, file: file, line: line)
}

/// Fails unless two lists have the same length and their entries agree to a share of the largest one.
func assertEqual(
    _ first: [Double],
    _ second: [Double],
    relative: Double,
    file: StaticString = #filePath,
    line: UInt = #line
) {
    XCTAssertEqual(first.count, second.count, file: file, line: line)
    let scale = second.map(abs).max() ?? 0
    for (ours, theirs) in zip(first, second) {
        assertEqual(ours, theirs, relative: relative, scale: scale, file: file, line: line)
    }
}

/// Fails unless `body` throws a `KitError` of that kind, with a remedy.
func assertKitError(
    _ kind: KitError.Kind,
    _ message: String = "",
    file: StaticString = #filePath,
    line: UInt = #line,
    _ body: () throws -> some Any
) {
    do {
        _ = try body()
        XCTFail("no error \(message)", file: file, line: line)
    } catch let error as KitError {
        XCTAssertEqual(error.kind, kind, "\(message): \(error)", file: file, line: line)
        XCTAssertFalse(error.remedy.isEmpty, file: file, line: line)
    } catch {
        XCTFail("\(message): \(error) is no KitError", file: file, line: line)
    }
}
