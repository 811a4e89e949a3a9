import Foundation

/// What a check on a device found; `result.json`. Missing figures are null or absent, never made up.
public struct CheckResult: Codable, Equatable, Sendable {
    /// The version of the format.
    public let schemaVersion: Int
    /// The device profile that the model was exported for.
    public let target: String
    /// sha256 of the precision plan.
    public let planDigest: String
    /// What it ran on.
    public let device: DeviceDescription
    /// The processors that Core ML was allowed to use.
    public let computeUnits: Kit.ComputeUnits
    /// One entry per output.
    public let accuracy: [OutputAccuracy]
    /// Wall-clock times of a prediction, from prepared frames to outputs.
    public let latency: Latency
    /// Seconds from opening the files to the end of the first prediction; compiling included where it was needed.
    public let loadSeconds: Double
    /// The largest resident size of this process so far, in bytes.
    public let peakMemoryBytes: Int
    /// Where Core ML means to run the operations; nil before iOS 17.4 and macOS 14.4.
    public let placement: Placement?

    enum CodingKeys: String, CodingKey {
        case schemaVersion = "schema_version"
        case target
        case planDigest = "plan_digest"
        case device
        case computeUnits = "compute_units"
        case accuracy
        case latency
        case loadSeconds = "load_s"
        case peakMemoryBytes = "peak_memory_bytes"
        case placement
    }

    /// - Parameters:
    ///   - kit: The kit that was checked.
    ///   - device: What it ran on.
    ///   - computeUnits: The processors that Core ML was allowed to use.
    ///   - accuracy: One entry per output.
    ///   - latency: Times of a prediction.
    ///   - loadSeconds: Seconds from opening the files to the end of the first prediction.
    ///   - peakMemoryBytes: The largest resident size of this process so far.
    ///   - placement: Where Core ML means to run the operations.
    public init(
        kit: Kit,
        device: DeviceDescription,
        computeUnits: Kit.ComputeUnits,
        accuracy: [OutputAccuracy],
        latency: Latency,
        loadSeconds: Double,
        peakMemoryBytes: Int,
        placement: Placement?
    ) {
        schemaVersion = kit.schemaVersion
        target = kit.target
        planDigest = kit.planDigest
        self.device = device
        self.computeUnits = computeUnits
        self.accuracy = accuracy
        self.latency = latency
        self.loadSeconds = loadSeconds
        self.peakMemoryBytes = peakMemoryBytes
        self.placement = placement
    }

    /// Whether every output is close enough to the simulation.
    public var passed: Bool { accuracy.allSatisfy { $0.status == .passed } }

    /// The outputs that are too far away, for the message of a test.
    public var failures: String {
        accuracy.filter { $0.status == .failed }.map(\.summary).joined(separator: "; ")
    }

    /// The contents of `result.json`: sorted keys, the same bytes for the same figures.
    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }
}

/// What a check ran on.
public struct DeviceDescription: Codable, Equatable, Sendable {
    /// The model identifier, such as `iPhone17,1`.
    public let model: String
    /// Name and version of the system.
    public let system: String
    /// How warm the device was at the end: `nominal`, `fair`, `serious` or `critical`. A hot device is a slow one.
    public let thermalState: String
    /// Whether it is a simulator, which has no Neural Engine and whose times mean nothing.
    public let isSimulator: Bool

    enum CodingKeys: String, CodingKey {
        case model
        case system
        case thermalState = "thermal_state"
        case isSimulator = "is_simulator"
    }

    /// - Parameters:
    ///   - model: The model identifier.
    ///   - system: Name and version of the system.
    ///   - thermalState: How warm the device was at the end.
    ///   - isSimulator: Whether it is a simulator.
    public init(model: String, system: String, thermalState: String, isSimulator: Bool) {
        self.model = model
        self.system = system
        self.thermalState = thermalState
        self.isSimulator = isSimulator
    }
}

/// How far one output of the device is from the simulation, and, for information, from FP32.
public struct OutputAccuracy: Codable, Equatable, Sendable {
    /// The verdict.
    public enum Status: String, Codable, Sendable {
        /// Finite and close enough.
        case passed
        /// Not finite, or too far away.
        case failed
    }

    /// The name of the output.
    public let output: String
    /// The verdict.
    public let status: Status
    /// Whether all values are finite.
    public let finite: Bool
    /// The limit for the SQNR against the simulation, in dB; nil: not judged.
    public let sqnrDBMin: Double?
    /// Against the simulation of the same plan; nil where the values are not finite.
    public let againstSimulation: Drift?
    /// Against the FP32 model; nil where the kit has no such tensor or the values are not finite.
    public let againstFP32: Drift?

    enum CodingKeys: String, CodingKey {
        case output
        case status
        case finite
        case sqnrDBMin = "sqnr_db_min"
        case againstSimulation = "against_simulation"
        case againstFP32 = "against_fp32"
    }

    /// Judges one output.
    ///
    /// - Parameters:
    ///   - name: The name of the output.
    ///   - values: What the device gave.
    ///   - golden: What it should give.
    ///   - tolerances: How far it may be away.
    /// - Throws: `KitError` where the golden tensors lack the output or have another number of values.
    public init(of name: String, values: [Float], golden: GoldenTensors, tolerances: Kit.Tolerances) throws {
        guard let simulation = golden.simulation[name] else {
            throw KitError(
                .damagedFile,
                "the golden tensors have no simulation of \(name)",
                remedy: "take kit.json and the golden tensors out of the same bundle"
            )
        }
        output = name
        sqnrDBMin = tolerances.backendSQNRdBMin
        finite = values.allSatisfy(\.isFinite)
        againstSimulation = try finite ? Self.drift(of: name, values, from: simulation) : nil
        againstFP32 = try finite ? golden.fp32[name].map { try Self.drift(of: name, values, from: $0) } : nil
        let isClose = againstSimulation.map { $0.sqnrDB >= tolerances.backendSQNRdBMin ?? -Drift.limitDB } ?? false
        status = isClose ? .passed : .failed
    }

    private static func drift(of name: String, _ values: [Float], from reference: Tensor) throws -> Drift {
        guard name == "pose_enc" else { return try Drift(of: values, from: reference.values) }
        let aligned = try PoseEncoding.withQuaternionSigns(of: reference.values, values)
        return try Drift(of: aligned, from: reference.values)
    }

    /// One line for people.
    public var summary: String {
        guard let drift = againstSimulation else { return "\(output): NaN or infinity" }
        let limit = sqnrDBMin.map { ", at least \($0) dB asked" } ?? ""
        return "\(output): SQNR \((drift.sqnrDB * 100).rounded() / 100) dB against the simulation\(limit)"
    }
}

/// Where Core ML means to run the operations of the model, from its compute plan.
public struct Placement: Codable, Equatable, Sendable {
    /// Operations per device: `neural_engine`, `gpu`, `cpu`.
    public var operations: [String: Int]
    /// Share of the estimated cost per device, from 0 to 1.
    public var cost: [String: Double]
    /// Operations per device for each block.
    public var blocks: [String: [String: Int]]

    enum CodingKeys: String, CodingKey {
        case operations
        case cost
        case blocks
    }

    /// Counts operations.
    ///
    /// - Parameters:
    ///   - operations: Output name, device and estimated cost of each operation that has a device.
    ///   - kit: The kit whose blocks they belong to.
    public init(operations: [(name: String, device: String, cost: Double)], kit: Kit) {
        let total = operations.reduce(0) { $0 + $1.cost }
        let prefixes = kit.blocks.map { (block: $0.block, prefix: $0.operationPrefix) }
        self.operations = [:]
        cost = [:]
        blocks = [:]
        for operation in operations {
            self.operations[operation.device, default: 0] += 1
            if total > 0 { cost[operation.device, default: 0] += operation.cost / total }
            guard let owner = prefixes.first(where: { operation.name.hasPrefix($0.prefix) }) else { continue }
            blocks[owner.block, default: [:]][operation.device, default: 0] += 1
        }
    }
}
