#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vggt_edge/picture.hpp"
#include "vggt_edge/tensor.hpp"

namespace vggt_edge {

/// One block of the model and what the plan asks of it.
///
/// - name, scheme: as in the precision plan.
/// - computed: what its linears multiply in; the scheme unless an FP16 block is an FP32 island.
/// - nodes: ONNX names of its linears.
struct Block {
    std::string name;
    std::string scheme;
    std::string computed;
    std::vector<std::string> nodes;
};

/// Limits of a check; none judges nothing.
///
/// - sqnr_db_min: least signal to noise against the simulation, in dB.
/// - pose_degrees_max: largest angle between cameras, in degrees.
struct Tolerances {
    std::optional<double> sqnr_db_min;
    std::optional<double> pose_degrees_max;
};

/// An output by its name, in the order of the graph.
using Outputs = std::vector<std::pair<std::string, Shape>>;

/// What `kit.json` says of a bundle's TensorRT folder.
///
/// - model: file name of the graph.
/// - files: sha256 by file name.
/// - needs: versions by the name of what the device needs, such as `>=10.3` of `tensorrt`.
/// - outputs: empty in kits of earlier exports, where the golden tensors say which there are.
/// - preprocess: how a picture becomes the input; `fit` in kits of earlier exports.
/// - pixel_centers: where the centre of the first pixel lies in a point cloud; `half` in kits of earlier exports.
/// - packed_bytes, fp16_bytes: size of the weights as the plan packs them, and in FP16.
struct Kit {
    std::string target;
    std::string plan_digest;
    std::string model;
    std::map<std::string, std::string> files;
    std::map<std::string, std::string> needs;
    std::vector<Block> blocks;
    Outputs outputs;
    Tolerances tolerances;
    Preprocess preprocess;
    PixelCenters pixel_centers = PixelCenters::half;
    std::int64_t packed_bytes = 0;
    std::int64_t fp16_bytes = 0;
};

/// The content of a `kit.json`. name: for messages. `KitError` where a field is missing, of another type or senseless.
Kit parse_kit(std::string_view text, const std::string& name = "kit.json");

/// Reads `kit.json` of a folder, and does not look at the files that it lists.
Kit read_kit(const std::filesystem::path& folder);

/// Reads `kit.json` of a folder, and compares every file that it lists with its sha256. `KitError` for a difference.
Kit load_kit(const std::filesystem::path& folder);

/// The numbers of a version: `10.3.0.26-1` is {10, 3, 0, 26}. What is no number ends it.
std::vector<int> version_of(std::string_view text);

/// The lowest version of something that a kit needs; empty where it says none.
std::vector<int> needed_version(const Kit& kit, const std::string& what);

/// One input with what the quantized simulation and the FP32 model made of it.
///
/// - inputs, fp32: by name; fp32 may lack outputs.
/// - expected: what the device is judged by, in the order of the graph's outputs.
struct Golden {
    std::map<std::string, Tensor> inputs;
    std::vector<std::pair<std::string, Tensor>> expected;
    std::map<std::string, Tensor> fp32;
};

/// The golden tensors of a kit; `KitError` where there are none, or they are not the kit's.
Golden load_golden(const std::filesystem::path& folder, const Kit& kit);

/// The same from an open file.
Golden golden_of(SafetensorsFile& file, const Kit& kit, const std::string& name);

}  // namespace vggt_edge
