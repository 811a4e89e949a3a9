#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vggt_edge/camera.hpp"
#include "vggt_edge/figures.hpp"
#include "vggt_edge/kit.hpp"

namespace vggt_edge {

enum class Verdict { passed, failed, not_judged };

/// As in `result.json`.
const char* text_of(Verdict verdict);

/// What one output of one prediction is worth: an entry of `outputs` in `result.json`.
struct Entry {
    Verdict verdict;
    std::optional<Drift> against_simulation;
    Json json;

    /// One line for the terminal.
    std::string summary() const;
};

/// The verdict on all outputs together: an empty list does not pass.
Verdict verdict_of(const std::vector<Entry>& entries);

/// Judges predictions; of every output the worst one counts.
class Judge {
public:
    /// The golden tensors have to outlive the judge. `KitError` for a pose encoding of another shape than (1, S, 9).
    Judge(const Golden& golden, const Tolerances& tolerances);

    /// Judges a prediction: the values of the outputs in the order of `golden.expected`.
    ///
    /// A prediction with the same bytes as the first needs no second comparison.
    void add(const std::vector<std::vector<float>>& outputs);

    /// One entry for each output; empty where nothing was judged.
    const std::vector<Entry>& entries() const { return worst_; }

    /// Predictions whose outputs are not byte for byte those of the first.
    std::int64_t unlike_first() const { return unlike_first_; }

private:
    Entry entry(std::size_t output, const std::vector<float>& values) const;
    Verdict verdict(bool is_pose, const std::vector<float>& values, const std::optional<Drift>& drift,
                    const std::optional<PoseErrors>& pose) const;

    const Golden& golden_;
    Tolerances tolerances_;
    std::vector<std::vector<float>> first_;
    std::vector<Entry> worst_;
    std::int64_t unlike_first_ = 0;
};

}  // namespace vggt_edge
