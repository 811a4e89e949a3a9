#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vggt_edge/judge.hpp"

namespace vggt_edge {

/// Model and system as the board calls them; null where nothing says.
Json::Table board();

/// The hottest zone, such as `cpu-thermal 48.5 C`; none where the system tells none.
std::optional<std::string> thermal();

/// The most memory that this process had, in bytes; none where Linux does not tell.
std::optional<std::int64_t> resident_peak();

/// What a check measured beside the outputs.
///
/// - runtime_version: of TensorRT. capability: compute capability of the GPU.
/// - compile_ms: the build. load_ms: deserializing. first_ms: the first prediction; none without a replay.
/// - wall, gpu: measured predictions by the clock, and by the GPU's events.
/// - engine_bytes: size of the engine. gpu_memory_bytes: what it took on the GPU.
/// - uses_cuda_graph: whether the measured predictions were launched as one CUDA graph.
/// - precision: entries of `audit`.
struct Measurement {
    std::string runtime_version;
    std::string capability;
    std::optional<std::string> thermal_before;
    std::optional<std::string> thermal_after;
    double compile_ms = 0;
    double load_ms = 0;
    std::optional<double> first_ms;
    Times wall;
    Times gpu;
    std::int64_t engine_bytes = 0;
    std::int64_t gpu_memory_bytes = 0;
    bool uses_cuda_graph = false;
    Json::List precision;
};

/// The exit code of a check: 4 where an output failed, 6 where a block lost its precision or weights are not packed.
Exit exit_of(const Kit& kit, const std::vector<Entry>& entries, const Measurement& measured);

/// The content of `result.json`, with the keys of the Python kit (docs/how-to/kit-result.md).
Json result_of(const Kit& kit, const std::vector<Entry>& entries, std::int64_t unlike_first, const Measurement& measured);

}  // namespace vggt_edge
