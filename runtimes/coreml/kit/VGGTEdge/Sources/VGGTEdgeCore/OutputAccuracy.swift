/// How far one output of the device is from the simulation, and, for information, from FP32.
public struct OutputAccuracy: Encodable, Equatable, Sendable {
    /// The name of the output.
    public let output: String
    /// The verdict.
    public let status: Verdict
    /// Whether all values are finite.
    public let finite: Bool
    /// The limit for the SQNR against the simulation, in dB; nil: not judged.
    public let sqnrDBMin: Double?
    /// Against the simulation of the same plan; nil where the values are not finite.
    public let againstSimulation: Drift?
    /// Against the FP32 model; nil where the kit has no such tensor or the values are not finite.
    public let againstFP32: Drift?
    /// Angles between the device's poses and the simulation's; nil for other outputs, and for poses that are none.
    public let pose: PoseErrors?
    /// The limit for these angles in degrees; nil: not judged.
    public let poseDegreesMax: Double?

    enum CodingKeys: String, CodingKey {
        case output
        case status
        case finite
        case sqnrDBMin = "sqnr_db_min"
        case againstSimulation = "against_simulation"
        case againstFP32 = "against_fp32"
        case pose
        case poseDegreesMax = "pose_degrees_max"
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
        guard let simulation = golden.simulation[name], simulation.values.count == values.count else {
            throw KitError(
                .damagedFile,
                "the golden tensors have no simulation of \(name) with \(values.count) values",
                remedy: "take kit.json and the golden tensors out of the same bundle"
            )
        }
        let isPose = name == "pose_enc"
        output = name
        sqnrDBMin = tolerances.backendSQNRdBMin
        poseDegreesMax = isPose ? tolerances.poseDegreesMax : nil
        finite = values.allSatisfy(\.isFinite)
        againstSimulation = try finite ? Self.drift(of: name, values, from: simulation) : nil
        againstFP32 = try finite ? golden.fp32[name].map { try Self.drift(of: name, values, from: $0) } : nil
        pose = isPose && finite ? Self.poseErrors(values, from: simulation.values) : nil
        var verdicts = [Self.verdict(of: againstSimulation?.sqnrDB, finite, limit: sqnrDBMin) { $0 >= $1 }]
        // Without a limit the angles are for information, and a single frame has none.
        if let limit = poseDegreesMax, values.count > PoseEncoding.length {
            let angle = pose.map { max($0.rotationDegrees, $0.translationDegrees) }
            verdicts.append(Self.verdict(of: angle, finite, limit: limit) { $0 <= $1 })
        }
        status = Verdict(all: verdicts)
    }

    private static func verdict(
        of figure: Double?, _ isFinite: Bool, limit: Double?, isClose: (Double, Double) -> Bool
    ) -> Verdict {
        guard isFinite else { return .failed }
        guard let limit else { return .notJudged }
        return figure.map { isClose($0, limit) ? .passed : .failed } ?? .failed
    }

    private static func drift(of name: String, _ values: [Float], from reference: Tensor) throws -> Drift {
        guard name == "pose_enc" else { return try Drift(of: values, from: reference.values) }
        let aligned = try PoseEncoding.withQuaternionSigns(of: reference.values, values)
        return try Drift(of: aligned, from: reference.values)
    }

    /// Nil for a single frame, which has no relative pose, and for encodings that are no cameras.
    private static func poseErrors(_ values: [Float], from reference: [Float]) -> PoseErrors? {
        let size = FrameSize(width: FrameSize.patch, height: FrameSize.patch)
        guard let cameras = try? PoseEncoding.cameras(values, size: size),
            let truth = try? PoseEncoding.cameras(reference, size: size)
        else { return nil }
        return try? PoseErrors(of: cameras.map(\.extrinsics), from: truth.map(\.extrinsics))
    }

    /// The worse of two judgements of the same output: what a check reports of several predictions.
    package static func worse(_ first: OutputAccuracy, _ second: OutputAccuracy) -> OutputAccuracy {
        if first.finite != second.finite { return first.finite ? second : first }
        if (first.status == .failed) != (second.status == .failed) { return first.status == .failed ? first : second }
        let (one, two) = (first.againstSimulation?.sqnrDB ?? 0, second.againstSimulation?.sqnrDB ?? 0)
        return two < one ? second : first
    }

    /// One line for people.
    public var summary: String {
        guard let drift = againstSimulation else { return "\(output): NaN or infinity" }
        let limit = sqnrDBMin.map { ", at least \($0) dB asked" } ?? ", not judged: kit.json has no limit"
        let angle = pose.map { pose in
            let largest = max(pose.rotationDegrees, pose.translationDegrees)
            let asked = poseDegreesMax.map { ", at most \($0) asked" } ?? ""
            return ", poses \((largest * 100).rounded() / 100) degrees apart\(asked)"
        }
        return "\(output): SQNR \((drift.sqnrDB * 100).rounded() / 100) dB against the simulation\(limit)\(angle ?? "")"
    }
}
