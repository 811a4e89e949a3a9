#include "vggt_edge/audit.hpp"

#include <algorithm>
#include <set>

#include "vggt_edge/error.hpp"

namespace vggt_edge {

namespace {

using Words = std::vector<std::string_view>;

constexpr std::int64_t least_saving = 8 << 20;
constexpr std::size_t most_report_values = 20'000'000;

/// What a layer of a scheme is seen to compute in, and what says nothing there: a weight-only layer multiplies in FP16.
struct Accepted {
    std::string precision;
    std::string inconclusive;
};

const std::map<std::string, Accepted> accepted{
    {"fp32", {"fp32", ""}},      {"fp16", {"fp16", ""}},      {"w8a8", {"int8", ""}},
    {"w4a16", {"int4", "fp16"}}, {"w8a16", {"int8", "fp16"}}, {"fp8", {"fp8", ""}},
    {"nvfp4", {"fp4", ""}},      {"nvfp4a16", {"fp4", "fp16"}},
};

bool has(std::string_view text, std::string_view word) { return text.find(word) != std::string_view::npos; }

bool has_any(std::string_view text, const Words& words) {
    return std::any_of(words.begin(), words.end(), [&](std::string_view word) { return has(text, word); });
}

/// Whether a word stands somewhere with something fitting before and behind it; NUL stands for nothing.
template <class Before, class Behind>
bool has_where(std::string_view text, std::string_view word, Before before, Behind behind) {
    for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
        const std::size_t end = at + word.size();
        if (before(at == 0 ? '\0' : text[at - 1]) && behind(end == text.size() ? '\0' : text[end])) return true;
    }
    return false;
}

bool anything(char) { return true; }
bool no_letter(char each) { return each < 'a' || each > 'z'; }
bool no_digit(char each) { return each < '0' || each > '9'; }
bool start_of_word(char each) { return each == '\0' || each == '_'; }

bool is_int4(std::string_view tactic) {
    return has(tactic, "int4") || has_where(tactic, "i4", no_letter, no_digit) ||
           has_where(tactic, "u4", no_letter, no_digit);
}

bool is_fp4(std::string_view tactic) {
    return has_any(tactic, {"e2m1", "nvf4"}) || has_where(tactic, "fp4", no_letter, anything);
}

bool is_fp8(std::string_view tactic) { return has(tactic, "e4m3") || has_where(tactic, "fp8", no_letter, anything); }

bool is_int8(std::string_view tactic) {
    if (has_any(tactic, {"i8i8", "s8s8"})) return true;
    const Words words{"i8", "s8", "int8", "imma"};
    return std::any_of(words.begin(), words.end(),
                       [&](std::string_view word) { return has_where(tactic, word, start_of_word, anything); });
}

std::string lower(std::string text) {
    for (char& each : text) {
        if (each >= 'A' && each <= 'Z') each = static_cast<char>(each - 'A' + 'a');
    }
    return text;
}

/// A member as text in small letters; empty where it is missing or something else.
std::string text_at(const Json& table, const std::string& key) {
    const Json* value = table.find(key);
    return value != nullptr && value->is_text() ? lower(value->text()) : "";
}

std::string weights_type(const Json& layer) {
    for (const char* key : {"Weights", "Kernel"}) {
        const Json* weights = layer.find(key);
        if (weights != nullptr && weights->is_table() && !weights->table().empty()) return text_at(*weights, "Type");
    }
    return "";
}

Words words_of(const std::vector<std::string>& texts) { return Words(texts.begin(), texts.end()); }

std::vector<std::string> input_types(const Json& layer) {
    std::vector<std::string> types;
    const Json* inputs = layer.find("Inputs");
    if (inputs == nullptr || !inputs->is_list()) return types;
    for (const Json& each : inputs->list()) {
        if (!each.is_table()) continue;
        types.push_back(text_at(each, each.find("Format/Datatype") != nullptr ? "Format/Datatype" : "Datatype"));
    }
    return types;
}

/// The number type that words such as `Int8` or `Half` name; none where they name no type.
std::optional<std::string> named_type(const Words& kinds) {
    static const std::vector<std::pair<Words, std::string>> table{
        {{"fp8"}, "fp8"}, {{"int8"}, "int8"}, {{"half", "fp16"}, "fp16"}, {{"float", "fp32"}, "fp32"}};
    for (const auto& [words, precision] : table) {
        for (const std::string_view kind : kinds) {
            if (has_any(kind, words)) return precision;
        }
    }
    return std::nullopt;
}

Json audit_block(const Block& block, const std::map<std::string, std::set<std::string>>& seen) {
    const Accepted& wanted = accepted.at(block.computed);
    std::map<std::string, std::int64_t> found;
    Json::List lost;
    std::int64_t unknown = 0;
    for (const std::string& node : block.nodes) {
        const auto place = seen.find(node);
        const std::set<std::string> precisions = place == seen.end() ? std::set<std::string>{} : place->second;
        for (const std::string& precision : precisions) found[precision] += 1;
        if (precisions.count(wanted.precision) != 0) continue;
        if (precisions.empty() || precisions == std::set<std::string>{wanted.inconclusive}) {
            unknown += 1;
        } else {
            lost.push_back(node);
        }
    }
    Json::Table counts;
    for (const auto& [precision, number] : found) counts.emplace(precision, number);
    const char* status = !lost.empty() ? "not_realised" : unknown > 0 ? "unknown" : "realised";
    return Json::Table{{"block", block.name}, {"asked", block.scheme}, {"status", status},
                       {"counts", counts},    {"lost", lost},          {"not_seen", unknown}};
}

}  // namespace

bool can_be_computed(const std::string& scheme) { return accepted.count(scheme) != 0; }

Json::List inspector_layers(std::string_view report) {
    try {
        return parse_json(report, {most_report_values, false}).at("Layers").list();
    } catch (const JsonProblem& problem) {
        throw KitError(Exit::lowering, std::string("cannot read the engine inspector's report: ") + problem.what());
    }
}

std::optional<std::string> layer_precision(const Json& layer) {
    const std::string tactic = text_at(layer, "TacticName"), weights = weights_type(layer);
    const std::vector<std::string> types = input_types(layer);
    const auto named = [&](std::string_view word) {
        return has(weights, word) ||
               std::any_of(types.begin(), types.end(), [&](const std::string& type) { return has(type, word); });
    };
    if (is_int4(tactic) || named("int4")) return "int4";
    // The scales of FP4 blocks are FP8, and may stand in a kernel's name too: FP4 is looked for first.
    if (is_fp4(tactic) || named("fp4")) return "fp4";
    if (is_fp8(tactic)) return "fp8";
    if (is_int8(tactic)) return "int8";
    if (has_any(tactic, {"f16f16", "h16816", "_f16", "hmma"})) return "fp16";
    if (has_any(tactic, {"f32f32", "tf32", "sgemm"})) return "fp32";
    if (const auto of_weights = named_type({weights})) return of_weights;
    return named_type(words_of(types));
}

std::vector<std::string> onnx_nodes(const Json& layer) {
    static const std::string opening = "[ONNX Layer: ";
    std::vector<std::string> nodes;
    const Json* metadata = layer.find("Metadata");
    const std::string text = metadata != nullptr && metadata->is_text() ? metadata->text() : "";
    std::size_t at = text.find(opening);
    while (at != std::string::npos) {
        at += opening.size();
        const std::size_t end = text.find(']', at);
        if (end == std::string::npos) break;
        if (end > at) nodes.push_back(text.substr(at, end - at));
        at = text.find(opening, std::max(at, end));
    }
    if (!nodes.empty()) return nodes;
    const Json* named = layer.find("Name");
    std::string name = layer.is_text() ? layer.text() : named != nullptr && named->is_text() ? named->text() : "";
    for (std::size_t plus = name.find(" + "); plus != std::string::npos; plus = name.find(" + ")) {
        nodes.push_back(name.substr(0, plus));
        name = name.substr(plus + 3);
    }
    nodes.push_back(name);
    for (std::string& node : nodes) {
        const std::size_t first = node.find_first_not_of(' ');
        node = first == std::string::npos ? "" : node.substr(first, node.find_last_not_of(' ') - first + 1);
    }
    return nodes;
}

Json::List audit(const Json::List& layers, const std::vector<Block>& blocks) {
    std::map<std::string, std::set<std::string>> seen;
    for (const Json& layer : layers) {
        const std::optional<std::string> precision = layer_precision(layer);
        if (!precision) continue;
        for (const std::string& node : onnx_nodes(layer)) seen[node].insert(*precision);
    }
    Json::List entries;
    for (const Block& block : blocks) entries.push_back(audit_block(block, seen));
    return entries;
}

std::string weights_packed(std::int64_t engine_bytes, const Kit& kit) {
    if (kit.fp16_bytes - kit.packed_bytes < least_saving) return "unknown";
    return 2 * engine_bytes < kit.packed_bytes + kit.fp16_bytes ? "yes" : "no";
}

}  // namespace vggt_edge
