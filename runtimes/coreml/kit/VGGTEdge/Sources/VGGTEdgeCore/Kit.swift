import Foundation

/// What `kit.json` says: the model, what goes in and comes out, and how far it may drift.
///
/// There is one way to make one: reading `kit.json`, with all checks. Its parts therefore cannot be decoded alone.
public struct Kit: Encodable, Equatable, Sendable {
    /// The one version of `kit.json` that this package reads.
    public static let supportedSchemaVersion = 1
    /// The name of the file.
    public static let fileName = "kit.json"

    /// The version of the format.
    public let schemaVersion: Int
    /// The device profile that the model was exported for.
    public let target: String
    /// sha256 of the precision plan.
    public let planDigest: String
    /// The package and where it runs.
    public let model: Model
    /// What goes in.
    public let input: Input
    /// How a picture becomes the input; `fit` in kits of earlier exports.
    public let preprocess: Preprocess
    /// Where the centre of the first pixel lies in a point cloud; `half` in kits of earlier exports.
    public let pixelCenters: PixelCenters
    /// What comes out, by name and shape.
    public let outputs: [Output]
    /// The precision of each block.
    public let blocks: [Block]
    /// How far the model may drift.
    public let tolerances: Tolerances
    /// The golden tensors; nil in a kit without them.
    public let golden: Golden?

    enum CodingKeys: String, CodingKey {
        case schemaVersion = "schema_version"
        case target
        case planDigest = "plan_digest"
        case model
        case input
        case preprocess
        case pixelCenters = "pixel_centers"
        case outputs
        case blocks
        case tolerances
        case golden
    }

    /// The package and where it runs.
    public struct Model: Encodable, Equatable, Sendable {
        /// The name of the `.mlpackage` beside `kit.json`.
        public let package: String
        /// sha256 over the names and contents of the package's files; the compiled model is kept under it.
        public let sha256: String
        /// sha256 of each file of the package, by its path inside it.
        public let files: [String: String]
        /// The processors that the model was planned for.
        public let computeUnits: ComputeUnits
        /// The first systems that can load it.
        public let minimumOS: MinimumOS

        enum CodingKeys: String, CodingKey {
            case package
            case sha256
            case files
            case computeUnits = "compute_units"
            case minimumOS = "minimum_os"
        }
    }

    /// The processors that Core ML may use.
    public enum ComputeUnits: String, CaseIterable, Encodable, Sendable {
        /// Whatever Core ML prefers.
        case all
        /// CPU and Neural Engine.
        case cpuAndNeuralEngine
        /// CPU and GPU.
        case cpuAndGPU
        /// The CPU alone; slow, and the most exact.
        case cpuOnly
    }

    /// Major versions of the first systems that can load the model.
    public struct MinimumOS: Encodable, Equatable, Sendable {
        /// iOS and iPadOS.
        public let iOS: Int
        /// macOS.
        public let macOS: Int
        /// visionOS.
        public let visionOS: Int

        enum CodingKeys: String, CodingKey {
            case iOS = "ios"
            case macOS = "macos"
            case visionOS = "visionos"
        }
    }

    /// What goes in.
    public struct Input: Encodable, Equatable, Sendable {
        /// Whether the model takes one tensor or pictures.
        public let kind: Kind
        /// Frames per prediction.
        public let frames: Int
        /// Rows of a frame, a multiple of 14.
        public let height: Int
        /// Columns of a frame, a multiple of 14.
        public let width: Int

        enum CodingKeys: String, CodingKey {
            case kind
            case frames
            case height
            case width
        }

        /// Whether the model takes one tensor or pictures.
        public enum Kind: String, CaseIterable, Encodable, Sendable {
            /// `images`, float32 (1, frames, 3, height, width), from 0 to 1.
            case tensor
            /// `image_0`, `image_1` and so on, one RGB picture each.
            case image
        }

        /// The size of a frame.
        public var frameSize: FrameSize { FrameSize(width: width, height: height) }

        /// The names of the model's inputs.
        public var names: [String] {
            switch kind {
            case .tensor: ["images"]
            case .image: (0..<frames).map { "image_\($0)" }
            }
        }
    }

    /// One output, float32.
    public struct Output: Encodable, Equatable, Sendable {
        /// `pose_enc`, `depth`, `depth_conf`, `points`, `points_conf`, `sky`, `rays` or `ray_conf`.
        public let name: String
        /// Its sides, the batch of 1 first.
        public let shape: [Int]

        enum CodingKeys: String, CodingKey {
            case name
            case shape
        }
    }

    /// One block of the model and the scheme that its weights and activations are stored in.
    public struct Block: Encodable, Equatable, Sendable {
        /// Its name, such as `frame_blocks.0`.
        public let block: String
        /// Its scheme, such as `w4a16`.
        public let scheme: String

        enum CodingKeys: String, CodingKey {
            case block
            case scheme
        }

        /// What the names of this block's operations begin with inside the Core ML program.
        public var operationPrefix: String {
            let name = block.unicodeScalars.map { scalar -> String in
                let isPlain = scalar.isASCII && (scalar.properties.isAlphabetic || ("0"..."9").contains(scalar))
                return scalar == "/" ? "__" : isPlain ? String(scalar) : "_"
            }
            return name.joined() + "__"
        }
    }

    /// How far the model may drift.
    public struct Tolerances: Encodable, Equatable, Sendable {
        /// The least SQNR in dB of each output against the simulation of the same plan; nil: not judged.
        public let backendSQNRdBMin: Double?
        /// The largest angle in degrees between poses of the device and of the simulation; nil: not judged.
        public let poseDegreesMax: Double?

        enum CodingKeys: String, CodingKey {
            case backendSQNRdBMin = "backend_sqnr_db_min"
            case poseDegreesMax = "pose_degrees_max"
        }

        /// Limits that are not set are written as null: reading asks for the keys.
        public func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(backendSQNRdBMin, forKey: .backendSQNRdBMin)
            try container.encode(poseDegreesMax, forKey: .poseDegreesMax)
        }
    }

    /// The golden tensors.
    public struct Golden: Encodable, Equatable, Sendable {
        /// The name of the file beside `kit.json`.
        public let file: String
        /// Its sha256.
        public let sha256: String

        enum CodingKeys: String, CodingKey {
            case file
            case sha256
        }
    }
}
