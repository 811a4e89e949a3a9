#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vggt_edge/kit.hpp"

namespace vggt_edge {

/// Whether a scheme is one whose kernels the audit can tell apart.
bool can_be_computed(const std::string& scheme);

/// The layers of the engine inspector's report. `KitError` for a report that cannot be read.
Json::List inspector_layers(std::string_view report);

/// What a layer multiplies in, or, for int4 and fp4, reads its weights as; none where nothing tells.
///
/// One of `int8`, `int4`, `fp4`, `fp8`, `fp16`, `fp32`. The kernel's own name is the best witness, then the type of the
/// weights, then the types of the inputs: a layer with int8 at its border may still compute in floating point.
std::optional<std::string> layer_precision(const Json& layer);

/// Names of the ONNX nodes that a layer was made of.
std::vector<std::string> onnx_nodes(const Json& layer);

/// Asked against realised, per block: status `realised`, `not_realised` or `unknown`, and counts.
Json::List audit(const Json::List& layers, const std::vector<Block>& blocks);

/// `yes`, `no`, or `unknown` where the engine is so small that its kernels outweigh what packing saves.
std::string weights_packed(std::int64_t engine_bytes, const Kit& kit);

}  // namespace vggt_edge
