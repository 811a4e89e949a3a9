#pragma once

#include <vector>

#include "vggt_edge/camera.hpp"

namespace vggt_edge {

/// The world point of every pixel: x, y, z of one after the other, in the coordinates of frame 0's camera.
///
/// depth: distances along the optical axis, frame after frame, row after row. `KitError` unless there is one finite
/// depth for each pixel of each frame.
std::vector<float> unproject(const std::vector<float>& depth, const std::vector<Camera>& cameras, const FrameSize& size);

/// True for the pixels with the highest product of confidences, ties included.
///
/// confidences: one or more maps of the same pixels, such as `depth_conf`. share: how many to keep, from 0 to 1; the
/// exporter's figures keep half. `KitError` for no map, maps of different lengths, NaN or infinity.
std::vector<bool> confident_pixels(const std::vector<std::vector<float>>& confidences, double share = 0.5);

}  // namespace vggt_edge
