#pragma once

#include <cstdint>
#include <filesystem>
#include <istream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vggt_edge/error.hpp"
#include "vggt_edge/json.hpp"

namespace vggt_edge {

/// The sides of a tensor, the slowest first.
using Shape = std::vector<std::int64_t>;

/// Whole numbers up to here are the same in every JSON parser.
constexpr std::int64_t largest_number = std::int64_t{1} << 53;

/// The number of elements. `JsonProblem` for a negative side, and for more than any machine can hold.
std::int64_t count(const Shape& shape);

/// `[1, 2, 3]`, for messages.
std::string text_of(const Shape& shape);

/// The sides that a JSON list says; `JsonProblem` where they are none.
Shape shape_of(const Json& value);

/// Float32 numbers with a shape, in row-major order.
struct Tensor {
    Shape shape;
    std::vector<float> values;
};

bool all_finite(const std::vector<float>& values);

/// Reads float32 tensors from a safetensors file, and believes nothing that it says before that is checked.
///
/// The form: 8 bytes with the length of the header (little endian), the header as JSON, the tensors without gaps.
class SafetensorsFile {
public:
    /// Reads and checks the header. name: for messages. `KitError` where the file is damaged.
    SafetensorsFile(std::unique_ptr<std::istream> file, std::string name);

    static SafetensorsFile open(const std::filesystem::path& path);
    static SafetensorsFile of_bytes(std::string bytes, std::string name = "safetensors data");

    /// The names of the tensors with their shapes.
    std::map<std::string, Shape> shapes() const;

    /// One tensor. `KitError` where the file has no such tensor, or the tensor holds NaN or infinity.
    Tensor tensor(const std::string& key);

private:
    struct Entry {
        Shape shape;
        std::int64_t begin;
        std::int64_t end;
    };

    std::map<std::string, Entry> entries(const Json& header, std::int64_t held) const;
    KitError damaged(const std::string& what) const;

    std::unique_ptr<std::istream> file_;
    std::string name_;
    std::int64_t start_ = 0;
    std::map<std::string, Entry> entries_;
};

}  // namespace vggt_edge
