#include "vggt_edge/result.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "or_null.hpp"
#include "vggt_edge/audit.hpp"

namespace vggt_edge {

namespace {

constexpr int result_schema_version = 1;
constexpr std::size_t longest_line = 4096;

/// The first line of a small system file; none where the file is missing or empty.
std::optional<std::string> first_line(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string line;
    for (char each; line.size() < longest_line && file.get(each) && each != '\n';) line += each;
    const std::size_t first = line.find_first_not_of(std::string("\0 ", 2));
    if (first == std::string::npos) return std::nullopt;
    return line.substr(first, line.find_last_not_of(std::string("\0 ", 2)) - first + 1);
}

template <class Number>
std::optional<Number> whole(std::string_view text) {
    Number value = 0;
    const auto [end, state] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (state != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

Json::Table timings(const Measurement& measured) {
    return {{"compile", measured.compile_ms},
            {"load", measured.load_ms},
            {"first_prediction", or_null(measured.first_ms)},
            {"measured", measured.wall.measured()}};
}

}  // namespace

Json::Table board() {
    return {{"model", or_null(first_line("/proc/device-tree/model"))},
            {"system", or_null(first_line("/etc/nv_tegra_release"))}};
}

std::optional<std::string> thermal() {
    std::optional<std::pair<long, std::string>> hottest;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/sys/class/thermal", none)) {
        const std::filesystem::path& zone = entry.path();
        if (zone.filename().string().rfind("thermal_zone", 0) != 0) continue;
        const auto temperature = whole<long>(first_line(zone / "temp").value_or(""));
        if (!temperature) continue;
        const std::string name = first_line(zone / "type").value_or(zone.filename().string());
        if (!hottest || std::pair(*temperature, name) > *hottest) hottest = {*temperature, name};
    }
    if (!hottest) return std::nullopt;
    char degrees[32];
    std::snprintf(degrees, sizeof degrees, " %.1f C", static_cast<double>(hottest->first) / 1000);
    return hottest->second + degrees;
}

std::optional<std::int64_t> resident_peak() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmHWM:", 0) != 0) continue;
        const std::size_t first = line.find_first_of("0123456789");
        if (first == std::string::npos) return std::nullopt;
        const std::size_t end = line.find_first_not_of("0123456789", first);
        const auto kibibytes = whole<std::int64_t>(std::string_view(line).substr(first, end - first));
        return kibibytes ? std::optional(*kibibytes * 1024) : std::nullopt;
    }
    return std::nullopt;
}

Exit exit_of(const Kit& kit, const std::vector<Entry>& entries, const Measurement& measured) {
    if (verdict_of(entries) == Verdict::failed) return Exit::accuracy;
    const bool is_lost = std::any_of(measured.precision.begin(), measured.precision.end(),
                                     [](const Json& entry) { return entry.at("status").text() == "not_realised"; });
    return is_lost || weights_packed(measured.engine_bytes, kit) == "no" ? Exit::lowering : Exit::ok;
}

Json result_of(const Kit& kit, const std::vector<Entry>& entries, std::int64_t unlike_first, const Measurement& measured) {
    Json::List outputs;
    for (const Entry& entry : entries) outputs.push_back(entry.json);
    Json::Table device = board();
    device["compute_capability"] = measured.capability;
    const Json memory = or_null(resident_peak());
    std::optional<double> load_s;
    if (measured.first_ms) load_s = (measured.load_ms + *measured.first_ms) / 1e3;
    return Json::Table{
        {"schema_version", result_schema_version},
        {"status", text_of(verdict_of(entries))},
        {"target", kit.target},
        {"plan_digest", kit.plan_digest},
        {"outputs", outputs},
        {"accuracy", outputs},  // the older name
        {"model_sha256", kit.files.at(kit.model)},
        {"runtime", Json::Table{{"name", "tensorrt"}, {"version", measured.runtime_version}}},
        {"device", device},
        {"thermal",
         Json::Table{{"before", or_null(measured.thermal_before)}, {"after", or_null(measured.thermal_after)}}},
        {"low_power_mode", nullptr},
        {"threads", nullptr},
        {"timings_ms", timings(measured)},
        {"latency", measured.wall.quantiles()},
        {"gpu_ms", measured.gpu.measured()},
        {"load_s", or_null(load_s)},
        {"memory_bytes", Json::Table{{"value", memory}, {"how", "VmHWM"}}},
        {"peak_memory_bytes", memory},
        {"gpu_memory_bytes", measured.gpu_memory_bytes},
        {"runs_unlike_first", unlike_first},
        {"engine", Json::Table{{"bytes", measured.engine_bytes},
                               {"build_s", measured.compile_ms / 1e3},
                               {"weights_packed", weights_packed(measured.engine_bytes, kit)},
                               {"cuda_graph", measured.uses_cuda_graph}}},
        {"precision", measured.precision},
        {"exit_code", static_cast<int>(exit_of(kit, entries, measured))},
    };
}

}  // namespace vggt_edge
