#include "vggt_edge/tensor.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <utility>

namespace vggt_edge {

namespace {

constexpr std::int64_t length_bytes = 8;
// Some 40 tensors have a header of a few kilobytes.
constexpr std::int64_t longest_header = 1 << 20;

std::int64_t size_of(std::istream& file) {
    file.seekg(0, std::ios::end);
    const std::int64_t size = file.tellg();
    file.seekg(0);
    return size;
}

}  // namespace

std::int64_t count(const Shape& shape) {
    std::int64_t total = 1;
    for (const std::int64_t side : shape) {
        if (side < 0) throw JsonProblem(text_of(shape) + " is no shape");
        if (side != 0 && total > largest_number / side) throw JsonProblem(text_of(shape) + " is too large a shape");
        total *= side;
    }
    return total;
}

std::string text_of(const Shape& shape) {
    std::string result = "[";
    for (const std::int64_t side : shape) {
        if (result.size() > 80) return result + "...]";
        result += (result.size() == 1 ? "" : ", ") + std::to_string(side);
    }
    return result + "]";
}

Shape shape_of(const Json& value) {
    Shape shape;
    for (const Json& side : value.list()) shape.push_back(side.whole());
    count(shape);
    return shape;
}

bool all_finite(const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

SafetensorsFile::SafetensorsFile(std::unique_ptr<std::istream> file, std::string name)
    : file_(std::move(file)), name_(std::move(name)) {
    const std::int64_t size = *file_ ? size_of(*file_) : -1;
    if (size < length_bytes) throw damaged("it has " + std::to_string(std::max<std::int64_t>(size, 0)) + " bytes");
    unsigned char bytes[length_bytes] = {};
    file_->read(reinterpret_cast<char*>(bytes), length_bytes);
    std::uint64_t length = 0;
    for (int index = length_bytes - 1; index >= 0; --index) length = length << 8 | bytes[index];
    if (length > static_cast<std::uint64_t>(std::min(longest_header, size - length_bytes))) {
        throw damaged("its header claims " + std::to_string(length) + " bytes");
    }
    std::string header(length, '\0');
    file_->read(header.data(), static_cast<std::streamsize>(length));
    if (!*file_) throw damaged("it cannot be read");
    start_ = length_bytes + static_cast<std::int64_t>(length);
    try {
        entries_ = entries(parse_json(header), size - start_);
    } catch (const JsonProblem& problem) {
        throw damaged(problem.what());
    }
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
    return SafetensorsFile(std::make_unique<std::ifstream>(path, std::ios::binary), path.string());
}

SafetensorsFile SafetensorsFile::of_bytes(std::string bytes, std::string name) {
    return SafetensorsFile(std::make_unique<std::istringstream>(std::move(bytes)), std::move(name));
}

std::map<std::string, SafetensorsFile::Entry> SafetensorsFile::entries(const Json& header, std::int64_t held) const {
    std::map<std::string, Entry> result;
    std::vector<std::pair<std::int64_t, std::int64_t>> places;
    for (const auto& [key, value] : header.table()) {
        if (key == "__metadata__") continue;
        const std::string shown = key.substr(0, 80);
        if (value.at("dtype").text() != "F32") throw JsonProblem(shown + " is no float32 tensor");
        const Json::List& offsets = value.at("data_offsets").list();
        if (offsets.size() != 2) throw JsonProblem(shown + " has no place");
        const Entry entry{shape_of(value.at("shape")), offsets[0].whole(), offsets[1].whole()};
        const std::int64_t elements = count(entry.shape);
        const bool is_inside = 0 <= entry.begin && entry.begin <= entry.end && entry.end <= held;
        if (!is_inside || elements > held / 4 || entry.end - entry.begin != 4 * elements) {
            throw JsonProblem(shown + " does not lie where its shape needs it");
        }
        places.emplace_back(entry.begin, entry.end);
        result.emplace(key, entry);
    }
    std::sort(places.begin(), places.end());
    std::int64_t end = 0;
    for (const auto& [first, last] : places) {
        if (first != end) throw JsonProblem("its tensors overlap or leave gaps");
        end = last;
    }
    if (end != held) throw JsonProblem("its tensors take " + std::to_string(end) + " bytes, it has " + std::to_string(held));
    return result;
}

std::map<std::string, Shape> SafetensorsFile::shapes() const {
    std::map<std::string, Shape> result;
    for (const auto& [key, entry] : entries_) result.emplace(key, entry.shape);
    return result;
}

Tensor SafetensorsFile::tensor(const std::string& key) {
    const auto place = entries_.find(key);
    if (place == entries_.end()) throw damaged("it has no tensor " + key);
    const Entry& entry = place->second;
    Tensor result{entry.shape, std::vector<float>(static_cast<std::size_t>((entry.end - entry.begin) / 4))};
    file_->clear();
    file_->seekg(start_ + entry.begin);
    file_->read(reinterpret_cast<char*>(result.values.data()), entry.end - entry.begin);
    if (!*file_) throw damaged("it cannot be read");
    if (!all_finite(result.values)) throw damaged(key + " holds NaN or infinity");
    return result;
}

KitError SafetensorsFile::damaged(const std::string& what) const {
    return KitError(Exit::usage, "cannot use " + name_ + ": " + what, bundle_again);
}

}  // namespace vggt_edge
