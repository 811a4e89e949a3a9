#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "vggt_edge/json.hpp"

namespace vggt_edge {

/// Stands for equal values; -200 dB for noise alone. JSON knows no infinity.
constexpr double most_db = 200;

/// How far values are from their reference, in double precision over all elements.
///
/// A relative error is taken against the larger of the reference's magnitude and a thousandth of its root mean square.
///
/// - cosine: of the angle between both; 1 for two zero vectors, 0 for one.
/// - sqnr_db: signal to quantization noise, within -200 and 200 dB.
/// - max_abs, p99_abs, max_rel, p99_rel: largest error and 99th percentile, absolute and relative.
/// - relative_l2: length of the error by the length of the reference; none for noise without a signal.
struct Drift {
    double cosine = 0;
    double sqnr_db = 0;
    double max_abs = 0;
    double p99_abs = 0;
    double max_rel = 0;
    double p99_rel = 0;
    std::optional<double> relative_l2;

    Json json() const;
};

/// The drift of values from their reference. Both finite and of one length, else `KitError`.
Drift drift_of(const std::vector<float>& values, const std::vector<float>& reference);

/// The percentile at a share from 0 to 1 of values in any order, interpolated between ranks. Reorders the values.
double percentile(std::vector<double>& values, double share);

/// Times of repeated runs in milliseconds, by the nearest rank.
class Times {
public:
    void add(double milliseconds) { samples_.push_back(milliseconds); }
    std::size_t count() const { return samples_.size(); }

    /// The time that a share of the runs did not exceed. `KitError` where there are no runs.
    double at(double share) const;

    /// `median`, `p90`, `min`, `max`, `count`; null where there are none.
    Json measured() const;

    /// `median_ms`, `p90_ms`, `p99_ms`, `runs`; null where there are none.
    Json quantiles() const;

private:
    std::vector<double> samples_;
};

}  // namespace vggt_edge
