#include "vggt_edge/figures.hpp"

#include <algorithm>
#include <cmath>

#include "vggt_edge/error.hpp"
#include "vggt_edge/tensor.hpp"

namespace vggt_edge {

namespace {

constexpr double relative_floor = 1e-3;
constexpr double high_share = 0.99;

/// What one pass over the values collects.
struct Sums {
    double value = 0;
    double truth = 0;
    double product = 0;
    double noise = 0;

    double cosine() const {
        const double norm = std::sqrt(value) * std::sqrt(truth);
        if (norm == 0) return noise == 0 ? 1 : 0;
        return std::clamp(product / norm, -1.0, 1.0);
    }

    double sqnr_db() const {
        if (noise == 0) return most_db;
        if (truth == 0) return -most_db;
        return std::clamp(10 * (std::log10(truth) - std::log10(noise)), -most_db, most_db);
    }

    std::optional<double> relative_l2() const {
        if (truth != 0) return std::sqrt(noise) / std::sqrt(truth);
        if (noise == 0) return 0;
        return std::nullopt;
    }
};

Sums sums_of(const std::vector<float>& values, const std::vector<float>& reference) {
    Sums sums;
    for (std::size_t index = 0; index < values.size(); ++index) {
        const double value = values[index], truth = reference[index];
        sums.value += value * value;
        sums.truth += truth * truth;
        sums.product += value * truth;
        sums.noise += (value - truth) * (value - truth);
    }
    return sums;
}

void check(const std::vector<float>& values, const std::vector<float>& reference) {
    if (values.empty() || values.size() != reference.size()) {
        throw KitError(Exit::usage,
                       std::to_string(values.size()) + " values cannot be compared with " +
                           std::to_string(reference.size()),
                       "compare an output with its own reference");
    }
    if (!all_finite(values) || !all_finite(reference)) {
        throw KitError(Exit::accuracy, "NaN or infinity among the values to compare",
                       "export again with the blocks of this output in fp32");
    }
}

}  // namespace

Json Drift::json() const {
    return Json::Table{{"cosine", cosine},   {"sqnr_db", sqnr_db}, {"max_abs", max_abs},
                       {"p99_abs", p99_abs}, {"max_rel", max_rel}, {"p99_rel", p99_rel},
                       {"relative_l2", relative_l2 ? Json(*relative_l2) : Json()}};
}

Drift drift_of(const std::vector<float>& values, const std::vector<float>& reference) {
    check(values, reference);
    const Sums sums = sums_of(values, reference);
    const double floor = relative_floor * std::sqrt(sums.truth / static_cast<double>(values.size()));
    // One array for both kinds of errors: an output of eight frames has five million values.
    std::vector<double> errors(values.size());
    const auto fill = [&](auto scale) {
        for (std::size_t index = 0; index < values.size(); ++index) {
            const double truth = reference[index];
            errors[index] = std::abs(values[index] - truth) / scale(truth);
        }
        return *std::max_element(errors.begin(), errors.end());
    };
    Drift drift{sums.cosine(), sums.sqnr_db(), 0, 0, 0, 0, sums.relative_l2()};
    drift.max_abs = fill([](double) { return 1.0; });
    drift.p99_abs = percentile(errors, high_share);
    // Without a signal there is nothing to be relative to: Python's kit says 0.
    if (floor > 0) {
        drift.max_rel = fill([&](double truth) { return std::max(std::abs(truth), floor); });
        drift.p99_rel = percentile(errors, high_share);
    }
    return drift;
}

double percentile(std::vector<double>& values, double share) {
    if (values.empty() || !(share >= 0 && share <= 1)) {
        throw KitError(Exit::usage, "no percentile of no values", "give one value or more and a share from 0 to 1");
    }
    const double position = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::ptrdiff_t>(position);
    std::nth_element(values.begin(), values.begin() + below, values.end());
    const double low = values[static_cast<std::size_t>(below)];
    if (below + 1 == static_cast<std::ptrdiff_t>(values.size())) return low;
    // Behind the selected place lies nothing smaller: the next rank is the least of what is there.
    const double high = *std::min_element(values.begin() + below + 1, values.end());
    return low + (high - low) * (position - static_cast<double>(below));
}

double Times::at(double share) const {
    if (samples_.empty()) throw KitError(Exit::usage, "no runs to measure", "measure at least one run");
    std::vector<double> ordered = samples_;
    std::sort(ordered.begin(), ordered.end());
    const double rank = std::ceil(share * static_cast<double>(ordered.size()));
    return ordered[static_cast<std::size_t>(std::max(rank - 1, 0.0))];
}

Json Times::measured() const {
    if (samples_.empty()) return nullptr;
    return Json::Table{{"median", at(0.5)},
                       {"p90", at(0.9)},
                       {"min", at(0)},
                       {"max", at(1)},
                       {"count", static_cast<std::int64_t>(count())}};
}

Json Times::quantiles() const {
    if (samples_.empty()) return nullptr;
    return Json::Table{{"median_ms", at(0.5)},
                       {"p90_ms", at(0.9)},
                       {"p99_ms", at(0.99)},
                       {"runs", static_cast<std::int64_t>(count())}};
}

}  // namespace vggt_edge
