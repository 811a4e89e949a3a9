import Foundation

/// A verdict: of one output, or of a whole check.
public enum Verdict: String, Encodable, Sendable {
    /// Finite, and close enough to the simulation.
    case passed
    /// Not finite, or too far away.
    case failed
    /// Finite, but there is no limit to judge by, or there are no outputs.
    case notJudged = "not_judged"

    /// Of a whole check: failed where one output is; passed only where there are outputs and all of them passed.
    init(all verdicts: [Verdict]) {
        if verdicts.contains(.failed) {
            self = .failed
        } else {
            self = verdicts.isEmpty || verdicts.contains(.notJudged) ? .notJudged : .passed
        }
    }
}

/// What a check on a device found; `result.json`. Missing figures are null or absent, never made up.
public struct CheckResult: Encodable, Equatable, Sendable {
    /// The version of the format of `result.json`.
    public static let schemaVersion = 1

    /// The kit that was checked.
    public let kit: Kit
    /// What ran the model.
    public let runtime: RuntimeDescription
    /// What it ran on.
    public let device: DeviceDescription
    /// How warm the device was before and after the predictions.
    public let thermal: ThermalStates
    /// Whether the device was saving power.
    public let lowPowerMode: Bool
    /// The processors that Core ML was allowed to use.
    public let computeUnits: Kit.ComputeUnits
    /// One entry per output.
    public let accuracy: [OutputAccuracy]
    /// Predictions whose outputs were not byte for byte those of the first.
    public let runsUnlikeFirst: Int
    /// Times of compiling, loading and predicting.
    public let timings: Timings
    /// The largest memory of this process before anything was judged.
    public let memory: MemoryUse
    /// Where Core ML means to run the operations; nil where the system does not tell.
    public let placement: Placement?
    /// Why there is no placement, where Core ML refused to plan.
    public let placementError: String?

    /// - Parameters:
    ///   - kit: The kit that was checked.
    ///   - runtime: What ran the model.
    ///   - device: What it ran on.
    ///   - thermal: How warm the device was before and after.
    ///   - lowPowerMode: Whether the device was saving power.
    ///   - computeUnits: The processors that Core ML was allowed to use.
    ///   - accuracy: One entry per output.
    ///   - runsUnlikeFirst: Predictions that differ from the first.
    ///   - timings: Times of compiling, loading and predicting.
    ///   - memory: The largest memory of this process.
    ///   - placement: Where Core ML means to run the operations.
    ///   - placementError: Why there is no placement.
    public init(
        kit: Kit,
        runtime: RuntimeDescription,
        device: DeviceDescription,
        thermal: ThermalStates,
        lowPowerMode: Bool,
        computeUnits: Kit.ComputeUnits,
        accuracy: [OutputAccuracy],
        runsUnlikeFirst: Int,
        timings: Timings,
        memory: MemoryUse,
        placement: Placement?,
        placementError: String? = nil
    ) {
        self.kit = kit
        self.runtime = runtime
        self.device = device
        self.thermal = thermal
        self.lowPowerMode = lowPowerMode
        self.computeUnits = computeUnits
        self.accuracy = accuracy
        self.runsUnlikeFirst = runsUnlikeFirst
        self.timings = timings
        self.memory = memory
        self.placement = placement
        self.placementError = placementError
    }

    /// The verdict over all outputs.
    public var status: Verdict { Verdict(all: accuracy.map(\.status)) }

    /// The measured predictions.
    public var latency: Latency { timings.measured }

    /// Whether every output was judged and is close enough to the simulation.
    public var passed: Bool { status == .passed }

    /// The outputs that did not pass, for the message of a test.
    public var failures: String {
        if accuracy.isEmpty { return "no outputs were judged" }
        return accuracy.filter { $0.status != .passed }.map(\.summary).joined(separator: "; ")
    }

    /// The contents of `result.json`: sorted keys, the same bytes for the same figures.
    ///
    /// - Throws: `KitError` for a figure that is no number.
    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        do {
            return try encoder.encode(self)
        } catch {
            throw KitError(
                .wrongInput,
                "a figure of the result is NaN or infinity",
                remedy: "give finite times and memory",
                underlying: error
            )
        }
    }
}

// MARK: - result.json

extension CheckResult {
    enum CodingKeys: String, CodingKey {
        case schemaVersion = "schema_version"
        case status
        case target
        case planDigest = "plan_digest"
        case runtime
        case device
        case thermal
        case lowPowerMode = "low_power_mode"
        case computeUnits = "compute_units"
        case outputs
        case accuracy
        case runsUnlikeFirst = "runs_unlike_first"
        case timings = "timings_ms"
        case latency
        case loadSeconds = "load_s"
        case memory = "memory_bytes"
        case peakMemoryBytes = "peak_memory_bytes"
        case placement
        case placementError = "placement_error"
    }

    /// `docs/how-to/kit-result.md` of the exporter says what each key means. Four keys are there for readers of earlier
    /// versions: `accuracy`, `latency`, `load_s`, `peak_memory_bytes`.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(Self.schemaVersion, forKey: .schemaVersion)
        try container.encode(status, forKey: .status)
        try container.encode(kit.target, forKey: .target)
        try container.encode(kit.planDigest, forKey: .planDigest)
        try container.encode(runtime, forKey: .runtime)
        try container.encode(device, forKey: .device)
        try container.encode(thermal, forKey: .thermal)
        try container.encode(lowPowerMode, forKey: .lowPowerMode)
        try container.encode(computeUnits, forKey: .computeUnits)
        try container.encode(accuracy, forKey: .outputs)
        try container.encode(accuracy, forKey: .accuracy)
        try container.encode(runsUnlikeFirst, forKey: .runsUnlikeFirst)
        try container.encode(timings, forKey: .timings)
        try container.encode(timings.measured, forKey: .latency)
        try container.encode(timings.secondsToFirstPrediction, forKey: .loadSeconds)
        try container.encode(memory, forKey: .memory)
        try container.encode(memory.bytes, forKey: .peakMemoryBytes)
        try container.encode(placement, forKey: .placement)
        try container.encode(placementError, forKey: .placementError)
    }
}

/// What ran the model.
public struct RuntimeDescription: Encodable, Equatable, Sendable {
    /// Its name.
    public let name: String
    /// Its version; Core ML has that of the system it is part of.
    public let version: String

    /// - Parameters:
    ///   - name: Its name.
    ///   - version: Its version.
    public init(name: String, version: String) {
        self.name = name
        self.version = version
    }
}

/// What a check ran on.
public struct DeviceDescription: Encodable, Equatable, Sendable {
    /// The model identifier, such as `iPhone17,1`.
    public let model: String
    /// Name and version of the system.
    public let system: String
    /// Whether it is a simulator, which has no Neural Engine and whose times mean nothing.
    public let isSimulator: Bool

    enum CodingKeys: String, CodingKey {
        case model
        case system
        case isSimulator = "is_simulator"
    }

    /// - Parameters:
    ///   - model: The model identifier.
    ///   - system: Name and version of the system.
    ///   - isSimulator: Whether it is a simulator.
    public init(model: String, system: String, isSimulator: Bool) {
        self.model = model
        self.system = system
        self.isSimulator = isSimulator
    }
}

/// How warm the device was: `nominal`, `fair`, `serious` or `critical`. A hot device is a slow one.
public struct ThermalStates: Encodable, Equatable, Sendable {
    /// Before the first prediction.
    public let before: String
    /// After the last prediction.
    public let after: String

    /// - Parameters:
    ///   - before: Before the first prediction.
    ///   - after: After the last prediction.
    public init(before: String, after: String) {
        self.before = before
        self.after = after
    }
}

/// How much memory the process took, in the words of the system.
public struct MemoryUse: Encodable, Equatable, Sendable {
    /// Bytes; nil where the system does not tell.
    public let bytes: Int?
    /// What the system calls the figure: `phys_footprint`, which is what Apple's limit for an app counts.
    public let how: String

    enum CodingKeys: String, CodingKey {
        case bytes = "value"
        case how
    }

    /// - Parameters:
    ///   - bytes: Bytes; nil where the system does not tell.
    ///   - how: What the system calls the figure.
    public init(bytes: Int?, how: String) {
        self.bytes = bytes
        self.how = how
    }

    /// What is not known is written as null.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(bytes, forKey: .bytes)
        try container.encode(how, forKey: .how)
    }
}

/// Times of a check in milliseconds.
public struct Timings: Encodable, Equatable, Sendable {
    /// Compiling the package; nil where a compiled model was there already.
    public let compileMS: Double?
    /// Loading the compiled model.
    public let loadMS: Double
    /// The first prediction.
    public let firstPredictionMS: Double
    /// The measured predictions.
    public let measured: Latency

    enum CodingKeys: String, CodingKey {
        case compileMS = "compile"
        case loadMS = "load"
        case firstPredictionMS = "first_prediction"
        case measured
    }

    private enum MeasuredKeys: String, CodingKey {
        case median
        case p90
        case min
        case max
        case count
    }

    /// - Parameters:
    ///   - compileMS: Compiling the package; nil where a compiled model was there already.
    ///   - loadMS: Loading the compiled model.
    ///   - firstPredictionMS: The first prediction.
    ///   - measured: The measured predictions.
    public init(compileMS: Double?, loadMS: Double, firstPredictionMS: Double, measured: Latency) {
        self.compileMS = compileMS
        self.loadMS = loadMS
        self.firstPredictionMS = firstPredictionMS
        self.measured = measured
    }

    /// Seconds from opening the files to the end of the first prediction.
    public var secondsToFirstPrediction: Double { ((compileMS ?? 0) + loadMS + firstPredictionMS) / 1000 }

    /// Compiling that did not happen is written as null.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(compileMS, forKey: .compileMS)
        try container.encode(loadMS, forKey: .loadMS)
        try container.encode(firstPredictionMS, forKey: .firstPredictionMS)
        var runs = container.nestedContainer(keyedBy: MeasuredKeys.self, forKey: .measured)
        try runs.encode(measured.medianMS, forKey: .median)
        try runs.encode(measured.p90MS, forKey: .p90)
        try runs.encode(measured.minMS, forKey: .min)
        try runs.encode(measured.maxMS, forKey: .max)
        try runs.encode(measured.runs, forKey: .count)
    }
}
