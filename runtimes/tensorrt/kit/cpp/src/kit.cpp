#include "vggt_edge/kit.hpp"

#include <algorithm>
#include <charconv>
#include <set>

#include "vggt_edge/audit.hpp"
#include "vggt_edge/files.hpp"
#include "vggt_edge/figures.hpp"
#include "vggt_edge/sha256.hpp"

namespace vggt_edge {

namespace {

constexpr int schema_version = 1;
constexpr double widest_angle = 180;
const std::string golden_file = "golden.safetensors";

const Json::Table& filled_table(const Json& kit, const std::string& key) {
    const Json& value = kit.at(key);
    if (!value.is_table() || value.table().empty()) throw JsonProblem(key + " is no table with something in it");
    return value.table();
}

const Json::List& filled_list(const Json& kit, const std::string& key) {
    const Json& value = kit.at(key);
    if (!value.is_list() || value.list().empty()) throw JsonProblem(key + " is no list with something in it");
    return value.list();
}

const std::string& text(const Json& table, const std::string& key) {
    const Json& value = table.at(key);
    if (!value.is_text()) throw JsonProblem(key + " is no text");
    return value.text();
}

std::int64_t bytes(const Json& table, const std::string& key) {
    const Json& value = table.at(key);
    if (!value.is_whole() || value.whole() < 0 || value.whole() > largest_number) {
        throw JsonProblem(key + " is no whole number from 0 to 2^53");
    }
    return value.whole();
}

std::optional<double> limit(const Json& table, const std::string& key, double highest) {
    const Json& value = table.at(key);
    if (value.is_null()) return std::nullopt;
    if (!value.is_number() || !(value.number() > 0) || value.number() > highest) {
        throw JsonProblem(key + " is no number above 0 and at most " + std::to_string(static_cast<int>(highest)));
    }
    return value.number();
}

std::string digest(const std::string& name, const Json& value) {
    const bool is_text = value.is_text() && value.text().size() == 64;
    if (!is_text || value.text().find_first_not_of("0123456789abcdef") != std::string::npos) {
        throw JsonProblem(name.substr(0, 80) + " has no sha256");
    }
    return value.text();
}

Block block(const Json& value) {
    Block result{text(value, "block"), text(value, "scheme"), text(value, "computed"), {}};
    if (!can_be_computed(result.computed)) {
        throw JsonProblem("a block is computed in the unknown " + result.computed.substr(0, 40));
    }
    for (const Json& node : value.at("nodes").list()) result.nodes.push_back(node.text());
    return result;
}

Outputs outputs(const Json& kit) {
    Outputs result;
    std::set<std::string> names;
    for (const Json& each : filled_list(kit, "outputs")) {
        result.emplace_back(text(each, "name"), shape_of(each.at("shape")));
        if (!names.insert(result.back().first).second) throw JsonProblem("an output is there twice");
    }
    return result;
}

Tolerances tolerances(const Json& kit) {
    filled_table(kit, "tolerances");
    const Json& limits = kit.at("tolerances");
    Tolerances result{limit(limits, "sqnr_db_min", most_db), std::nullopt};
    if (limits.find("pose_degrees_max") != nullptr) result.pose_degrees_max = limit(limits, "pose_degrees_max", widest_angle);
    return result;
}

Preprocess preprocess(const Json& kit) {
    const Json* rule = kit.find("preprocess");
    if (rule == nullptr) return {};
    if (!rule->is_table()) throw JsonProblem("preprocess is no table");
    const std::map<std::string, Mode> modes{{"fit", Mode::fit}, {"crop", Mode::crop}, {"pad", Mode::pad}};
    const auto mode = modes.find(text(*rule, "mode"));
    if (mode == modes.end()) throw JsonProblem("the mode of preprocess is none of fit, crop, pad");
    const Json& side = rule->at("patch");
    if (!side.is_whole() || side.whole() < 1 || side.whole() > 1 << 15) {
        throw JsonProblem("the patch of preprocess is no whole number from 1 to 32768");
    }
    return {mode->second, static_cast<int>(side.whole())};
}

PixelCenters pixel_centers(const Json& kit) {
    if (kit.find("pixel_centers") == nullptr) return PixelCenters::half;
    const std::string& place = text(kit, "pixel_centers");
    if (place != "half" && place != "integer") throw JsonProblem("pixel_centers is none of half, integer");
    return place == "half" ? PixelCenters::half : PixelCenters::integer;
}

Kit checked(const Json& json) {
    const Json& version = json.at("schema_version");
    if (!version.is_whole() || version.whole() != schema_version) throw JsonProblem("schema_version is not 1");
    Kit kit;
    kit.target = text(json, "target");
    kit.plan_digest = text(json, "plan_digest");
    kit.model = text(json, "model");
    for (const auto& [name, value] : filled_table(json, "sha256")) {
        if (!is_plain_name(name)) throw JsonProblem("it lists " + name.substr(0, 80) + ", which is no plain file name");
        kit.files.emplace(name, digest(name, value));
    }
    if (kit.files.count(kit.model) == 0) throw JsonProblem("sha256 does not list the model " + kit.model.substr(0, 80));
    if (const Json* needs = json.find("requires")) {
        for (const auto& [name, wanted] : needs->table()) kit.needs.emplace(name, wanted.is_text() ? wanted.text() : "");
    }
    for (const Json& each : filled_list(json, "blocks")) kit.blocks.push_back(block(each));
    filled_table(json, "weight_bytes");
    kit.packed_bytes = bytes(json.at("weight_bytes"), "packed");
    kit.fp16_bytes = bytes(json.at("weight_bytes"), "fp16");
    if (json.find("outputs") != nullptr) kit.outputs = outputs(json);
    kit.tolerances = tolerances(json);
    kit.preprocess = preprocess(json);
    kit.pixel_centers = pixel_centers(json);
    return kit;
}

/// Where the golden tensors have no list of outputs to follow: their own, in the order of the alphabet.
Outputs listed(const Kit& kit, const std::map<std::string, Shape>& shapes) {
    if (!kit.outputs.empty()) return kit.outputs;
    Outputs result;
    for (const auto& [key, shape] : shapes) {
        if (key.rfind("expected/", 0) == 0) result.emplace_back(key.substr(9), shape);
    }
    return result;
}

}  // namespace

Kit parse_kit(std::string_view text, const std::string& name) {
    try {
        return checked(parse_json(text));
    } catch (const JsonProblem& problem) {
        throw KitError(Exit::usage, "cannot use " + name + ": " + problem.what(), bundle_again);
    }
}

Kit read_kit(const std::filesystem::path& folder) {
    const std::filesystem::path path = folder / "kit.json";
    return parse_kit(read_file(path, longest_json), path.string());
}

Kit load_kit(const std::filesystem::path& folder) {
    const std::filesystem::path path = folder / "kit.json";
    const Kit kit = read_kit(folder);
    for (const auto& [name, wanted] : kit.files) {
        const std::filesystem::path file = folder / name;
        if (!std::filesystem::is_regular_file(file) || sha256_of_file(file) != wanted) {
            throw KitError(Exit::usage, file.string() + " is missing or damaged", "copy it from the bundle again");
        }
    }
    const std::string data = kit.model + ".data";
    if (std::filesystem::exists(folder / data) && kit.files.count(data) == 0) {
        throw KitError(Exit::usage, path.string() + " does not list " + data, bundle_again);
    }
    return kit;
}

std::vector<int> version_of(std::string_view text) {
    std::vector<int> numbers;
    while (true) {
        int number = 0;
        const auto [end, state] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (state != std::errc() || number < 0) return numbers;
        numbers.push_back(number);
        text.remove_prefix(static_cast<std::size_t>(end - text.data()));
        if (text.empty() || text[0] != '.') return numbers;
        text.remove_prefix(1);
    }
}

std::vector<int> needed_version(const Kit& kit, const std::string& what) {
    const auto place = kit.needs.find(what);
    std::vector<int> highest;
    std::string clauses = place == kit.needs.end() ? "" : place->second;
    while (!clauses.empty()) {
        const std::size_t comma = std::min(clauses.find(','), clauses.size());
        const std::string clause = clauses.substr(std::min(clauses.find_first_not_of(' '), comma), comma);
        if (clause.rfind(">=", 0) == 0) highest = std::max(highest, version_of(clause.substr(2)));
        clauses.erase(0, comma + 1);
    }
    return highest;
}

Golden load_golden(const std::filesystem::path& folder, const Kit& kit) {
    if (kit.files.count(golden_file) == 0) {
        throw KitError(Exit::usage, "this kit has no golden tensors", "export again; the validation writes them");
    }
    const std::filesystem::path path = folder / golden_file;
    SafetensorsFile file = SafetensorsFile::open(path);
    return golden_of(file, kit, path.string());
}

Golden golden_of(SafetensorsFile& file, const Kit& kit, const std::string& name) {
    const auto refused = [&](const std::string& what) { return KitError(Exit::usage, name + " " + what, bundle_again); };
    const std::map<std::string, Shape> shapes = file.shapes();
    const Outputs wanted = listed(kit, shapes);
    const std::map<std::string, Shape> known(wanted.begin(), wanted.end());
    Golden golden;
    for (const auto& [key, shape] : shapes) {
        const std::size_t slash = key.find('/');
        const std::string group = key.substr(0, slash), output = slash == std::string::npos ? "" : key.substr(slash + 1);
        if (group == "input") {
            golden.inputs.emplace(output, file.tensor(key));
            continue;
        }
        const auto place = known.find(output);
        if (group != "expected" && group != "fp32") throw refused("holds " + key.substr(0, 80));
        if (place == known.end() || place->second != shape) throw refused("holds other outputs than kit.json lists");
        if (group == "fp32") golden.fp32.emplace(output, file.tensor(key));
    }
    for (const auto& [output, shape] : wanted) {
        if (shapes.count("expected/" + output) == 0) throw refused("holds other outputs than kit.json lists");
        golden.expected.emplace_back(output, file.tensor("expected/" + output));
    }
    if (golden.inputs.empty() || golden.expected.empty()) throw refused("holds no input or no expected output");
    return golden;
}

}  // namespace vggt_edge
