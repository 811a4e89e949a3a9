#include "vggt_edge/judge.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "or_null.hpp"
#include "vggt_edge/error.hpp"

namespace vggt_edge {

namespace {

const std::string pose_name = "pose_enc";

bool same_bytes(const std::vector<std::vector<float>>& first, const std::vector<std::vector<float>>& second) {
    for (std::size_t index = 0; index < first.size(); ++index) {
        const std::size_t bytes = first[index].size() * sizeof(float);
        if (first[index].size() != second[index].size()) return false;
        if (bytes > 0 && std::memcmp(first[index].data(), second[index].data(), bytes) != 0) return false;
    }
    return true;
}

Drift drift_for(bool is_pose, const std::vector<float>& values, const std::vector<float>& reference) {
    return drift_of(is_pose ? with_quaternion_signs(values, reference) : values, reference);
}

template <class Figures>
Json json_or_null(const std::optional<Figures>& figures) {
    return figures ? figures->json() : Json();
}

/// The smallest is the worst.
std::pair<bool, double> badness(const Entry& entry) {
    const double worst = -std::numeric_limits<double>::infinity();
    return {entry.verdict != Verdict::failed, entry.against_simulation ? entry.against_simulation->sqnr_db : worst};
}

std::string formatted(const char* form, double value) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, form, value);
    return buffer;
}

}  // namespace

const char* text_of(Verdict verdict) {
    switch (verdict) {
        case Verdict::passed: return "passed";
        case Verdict::failed: return "failed";
        default: return "not_judged";
    }
}

std::string Entry::summary() const {
    std::string line = json.at("output").text() + " " + text_of(verdict);
    if (!against_simulation) return line + " NaN or infinity";
    line += formatted(" SQNR %.2f dB against the simulation, ", against_simulation->sqnr_db);
    const Json& limit = json.at("sqnr_db_min");
    line += limit.is_null() ? "no limit" : formatted("at least %g dB asked", limit.number());
    const Json* pose = json.find("pose");
    if (pose == nullptr || pose->is_null()) return line;
    line += formatted(", rotation %.3g deg", pose->at("rotation_degrees").number());
    return line + formatted(", translation %.3g deg", pose->at("translation_degrees").number());
}

Verdict verdict_of(const std::vector<Entry>& entries) {
    bool all_passed = !entries.empty();
    for (const Entry& entry : entries) {
        if (entry.verdict == Verdict::failed) return Verdict::failed;
        all_passed = all_passed && entry.verdict == Verdict::passed;
    }
    return all_passed ? Verdict::passed : Verdict::not_judged;
}

Judge::Judge(const Golden& golden, const Tolerances& tolerances) : golden_(golden), tolerances_(tolerances) {
    for (const auto& [name, tensor] : golden.expected) {
        const Shape& shape = tensor.shape;
        const bool is_pose = shape.size() == 3 && shape[0] == 1 && shape[1] >= 1 && shape[2] == 9;
        if (name == pose_name && !is_pose) {
            throw KitError(Exit::usage, pose_name + " has the shape " + text_of(shape) + " instead of (1, frames, 9)",
                           bundle_again);
        }
    }
}

void Judge::add(const std::vector<std::vector<float>>& outputs) {
    if (outputs.size() != golden_.expected.size()) {
        throw KitError(Exit::lowering, "a prediction has " + std::to_string(outputs.size()) + " outputs");
    }
    if (first_.empty()) {
        first_ = outputs;
    } else if (same_bytes(first_, outputs)) {
        return;
    } else {
        unlike_first_ += 1;
    }
    for (std::size_t index = 0; index < outputs.size(); ++index) {
        Entry next = entry(index, outputs[index]);
        if (worst_.size() == index) {
            worst_.push_back(std::move(next));
        } else if (badness(next) < badness(worst_[index])) {
            worst_[index] = std::move(next);
        }
    }
}

Entry Judge::entry(std::size_t output, const std::vector<float>& values) const {
    const auto& [name, reference] = golden_.expected[output];
    const bool is_finite = all_finite(values), is_pose = name == pose_name;
    std::optional<Drift> simulation, fp32;
    std::optional<PoseErrors> pose;
    const auto original = golden_.fp32.find(name);
    if (is_finite) {
        simulation = drift_for(is_pose, values, reference.values);
        if (original != golden_.fp32.end()) fp32 = drift_for(is_pose, values, original->second.values);
        if (is_pose) pose = pose_errors(values, reference.values);
    }
    Json::Table json{{"output", name},
                     {"finite", is_finite},
                     {"sqnr_db_min", or_null(tolerances_.sqnr_db_min)},
                     {"against_simulation", json_or_null(simulation)},
                     {"against_fp32", json_or_null(fp32)}};
    if (is_pose) {
        json["pose"] = json_or_null(pose);
        json["pose_degrees_max"] = or_null(tolerances_.pose_degrees_max);
    }
    const Verdict found = verdict(is_pose, values, simulation, pose);
    json["status"] = text_of(found);
    return {found, simulation, json};
}

/// NaN fails whatever the limits; without a limit nothing passes.
Verdict Judge::verdict(bool is_pose, const std::vector<float>& values, const std::optional<Drift>& drift,
                       const std::optional<PoseErrors>& pose) const {
    const auto& limit = tolerances_.sqnr_db_min;
    if (!drift || (limit && drift->sqnr_db < *limit)) return Verdict::failed;
    const auto& angle = tolerances_.pose_degrees_max;
    if (is_pose && values.size() > pose_length && angle) {
        if (!pose || std::max(pose->rotation, pose->translation) > *angle) return Verdict::failed;
    }
    return limit ? Verdict::passed : Verdict::not_judged;
}

}  // namespace vggt_edge
