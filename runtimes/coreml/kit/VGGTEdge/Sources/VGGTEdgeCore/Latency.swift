/// Times of repeated runs in milliseconds, by the nearest rank.
public struct Latency: Encodable, Equatable, Sendable {
    /// Half of the runs were not slower.
    public let medianMS: Double
    /// Nine of ten runs were not slower.
    public let p90MS: Double
    /// 99 of 100 runs were not slower.
    public let p99MS: Double
    /// How many runs were measured.
    public let runs: Int
    /// The fastest run.
    public let minMS: Double
    /// The slowest run.
    public let maxMS: Double

    enum CodingKeys: String, CodingKey {
        case medianMS = "median_ms"
        case p90MS = "p90_ms"
        case p99MS = "p99_ms"
        case runs
    }

    /// - Parameter milliseconds: One time per run.
    /// - Throws: `KitError` for no runs at all, or a time that is negative or not finite.
    public init(milliseconds: [Double]) throws {
        let ordered = milliseconds.sorted()
        guard let first = ordered.first, let last = ordered.last, milliseconds.allSatisfy({ $0.isFinite && $0 >= 0 })
        else {
            throw KitError(
                .wrongInput, "no runs to measure, or times that no clock gives", remedy: "measure at least one run"
            )
        }
        func atShare(_ share: Double) -> Double {
            ordered[max(0, Int((share * Double(ordered.count)).rounded(.up)) - 1)]
        }
        medianMS = atShare(0.5)
        p90MS = atShare(0.9)
        p99MS = atShare(0.99)
        runs = ordered.count
        minMS = first
        maxMS = last
    }
}
