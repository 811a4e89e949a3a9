#pragma once

#include <vector>

#include "vggt_edge/camera.hpp"

namespace vggt_edge {

/// The world point of every pixel: x, y, z of one after the other, in the coordinates of frame 0's camera.
///
/// depth: distances along the optical axis, frame after frame, row after row. centers: `pixel_centers` of the kit.
/// `KitError` unless there is one finite depth for each pixel of each frame.
std::vector<float> unproject(const std::vector<float>& depth, const std::vector<Camera>& cameras, const FrameSize& size,
                             PixelCenters centers = PixelCenters::half);

/// True for the pixels of all frames that show the picture, and are not white because `crop` or `pad` filled up.
///
/// contents: `Framing::content` of each frame. size: of a frame.
std::vector<bool> shown_pixels(const std::vector<FrameArea>& contents, const FrameSize& size);

/// True for the pixels with the highest product of confidences, ties included.
///
/// confidences: one or more maps of the same pixels, such as `depth_conf`. share: how many to keep, from 0 to 1; the
/// exporter's figures keep half. shown: the pixels that count, all if empty; the share is one of them. `KitError` for
/// no map, maps of different lengths, NaN or infinity.
std::vector<bool> confident_pixels(const std::vector<std::vector<float>>& confidences, double share = 0.5,
                                   const std::vector<bool>& shown = {});

}  // namespace vggt_edge
