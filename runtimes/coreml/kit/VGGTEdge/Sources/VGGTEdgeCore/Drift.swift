import Foundation

/// How far values are from their reference: the figures of the exporter's report, computed the same way.
///
/// Everything is computed in double precision over all elements. A relative error is taken against the larger of the
/// reference's magnitude and a thousandth of its root mean square.
public struct Drift: Encodable, Equatable, Sendable {
    /// The cosine of the angle between the two; 1 for two zero vectors, 0 for one.
    public let cosine: Double
    /// Signal to quantization noise in dB, kept within -200 and 200; equal values give 200.
    public let sqnrDB: Double
    /// The largest absolute error.
    public let maxAbs: Double
    /// The 99th percentile of the absolute error.
    public let p99Abs: Double
    /// The largest relative error.
    public let maxRel: Double
    /// The 99th percentile of the relative error.
    public let p99Rel: Double

    static let limitDB = 200.0
    static let relativeFloor = 1e-3

    enum CodingKeys: String, CodingKey {
        case cosine
        case sqnrDB = "sqnr_db"
        case maxAbs = "max_abs"
        case p99Abs = "p99_abs"
        case maxRel = "max_rel"
        case p99Rel = "p99_rel"
    }

    /// - Parameters:
    ///   - values: What is judged.
    ///   - reference: What it should be; as many values, in the same order.
    /// - Throws: `KitError` for different or empty lengths, NaN or infinity.
    public init(of values: [Float], from reference: [Float]) throws {
        self = try values.withUnsafeBufferPointer { values in
            try reference.withUnsafeBufferPointer { try Drift(of: values, from: $0) }
        }
    }

    /// The same over memory that somebody else owns.
    init(of values: UnsafeBufferPointer<Float>, from reference: UnsafeBufferPointer<Float>) throws {
        try Self.check(values, reference)
        var sums = Sums()
        var errors = [Double](unsafeUninitializedCapacity: values.count) { errors, count in
            for index in 0..<values.count {
                let (value, truth) = (Double(values[index]), Double(reference[index]))
                errors[index] = abs(value - truth)
                sums.add(value: value, truth: truth)
            }
            count = values.count
        }
        let rms = (sums.truth / Double(reference.count)).squareRoot()
        let smallest = rms > 0 ? Self.relativeFloor * rms : 1
        var relative = [Double](unsafeUninitializedCapacity: values.count) { relative, count in
            for index in 0..<values.count {
                relative[index] = errors[index] / max(abs(Double(reference[index])), smallest)
            }
            count = values.count
        }
        cosine = sums.cosine
        sqnrDB = sums.sqnrDB
        maxAbs = errors.max() ?? 0
        maxRel = relative.max() ?? 0
        p99Abs = errors.withUnsafeMutableBufferPointer { Selection.percentile(0.99, of: $0) }
        p99Rel = relative.withUnsafeMutableBufferPointer { Selection.percentile(0.99, of: $0) }
    }

    private static func check(
        _ values: UnsafeBufferPointer<Float>, _ reference: UnsafeBufferPointer<Float>
    ) throws {
        guard values.count == reference.count, !values.isEmpty else {
            throw KitError(
                .wrongInput,
                "\(values.count) values cannot be compared with \(reference.count)",
                remedy: "compare an output with its own reference"
            )
        }
        guard values.allSatisfy(\.isFinite), reference.allSatisfy(\.isFinite) else {
            throw KitError(
                .unusableOutput,
                "NaN or infinity among the values to compare",
                remedy: "export again with the blocks of this output in fp32"
            )
        }
    }

    /// What one pass over the values collects.
    private struct Sums {
        var value = 0.0
        var truth = 0.0
        var product = 0.0
        var noise = 0.0

        @inline(__always)
        mutating func add(value: Double, truth: Double) {
            self.value += value * value
            self.truth += truth * truth
            product += value * truth
            noise += (value - truth) * (value - truth)
        }

        /// Rounding may lead a little beyond 1, where no cosine is.
        var cosine: Double {
            if value == 0 || truth == 0 { return value == truth ? 1 : 0 }
            return min(max(product / (value.squareRoot() * truth.squareRoot()), -1), 1)
        }

        var sqnrDB: Double {
            if noise == 0 { return Drift.limitDB }
            if truth == 0 { return -Drift.limitDB }
            return min(max(10 * (log10(truth) - log10(noise)), -Drift.limitDB), Drift.limitDB)
        }
    }
}
