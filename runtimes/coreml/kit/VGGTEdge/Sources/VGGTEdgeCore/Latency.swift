/// Times of repeated runs in milliseconds, by the nearest rank.
public struct Latency: Codable, Equatable, Sendable {
    /// Half of the runs were not slower.
    public let medianMS: Double
    /// Nine of ten runs were not slower.
    public let p90MS: Double
    /// 99 of 100 runs were not slower.
    public let p99MS: Double
    /// How many runs were measured.
    public let runs: Int

    enum CodingKeys: String, CodingKey {
        case medianMS = "median_ms"
        case p90MS = "p90_ms"
        case p99MS = "p99_ms"
        case runs
    }

    /// - Parameter milliseconds: One time per run.
    /// - Throws: `KitError` for no runs at all.
    public init(milliseconds: [Double]) throws {
        guard !milliseconds.isEmpty else {
            throw KitError(.wrongInput, "no runs to measure", remedy: "measure at least one run")
        }
        let ordered = milliseconds.sorted()
        func atShare(_ share: Double) -> Double {
            ordered[max(0, Int((share * Double(ordered.count)).rounded(.up)) - 1)]
        }
        medianMS = atShare(0.5)
        p90MS = atShare(0.9)
        p99MS = atShare(0.99)
        runs = ordered.count
    }
}
