#pragma once

#include <array>
#include <optional>
#include <vector>

#include "vggt_edge/json.hpp"
#include "vggt_edge/picture.hpp"

namespace vggt_edge {

using Vector3 = std::array<double, 3>;
/// By rows.
using Matrix3 = std::array<Vector3, 3>;

/// Where a camera is: world to camera, `camera = rotation * world + translation`.
///
/// OpenCV axes: x right, y down, z forward. The world is the camera of frame 0.
struct Extrinsics {
    Matrix3 rotation;
    Vector3 translation;

    /// The position of the camera in the world.
    Vector3 center() const { return to_world({0, 0, 0}); }
    Vector3 to_camera(const Vector3& point) const;
    Vector3 to_world(const Vector3& point) const;
};

/// How a camera projects, in pixels. The image spans `[0, width] x [0, height]`, so its centre is half of both.
struct Intrinsics {
    double focal_x;
    double focal_y;
    double center_x;
    double center_y;

    /// These intrinsics after `resized_to_cover` took the frame from `source` to `target`.
    Intrinsics resized(const FrameSize& source, const FrameSize& target) const;

    /// These intrinsics after `framed` took the picture into the model's input.
    Intrinsics framed(const Framing& framing) const;
};

struct Camera {
    Extrinsics extrinsics;
    Intrinsics intrinsics;
};

/// Numbers per frame of the output `pose_enc`: translation (3), quaternion x, y, z, w (4), vertical and horizontal
/// field of view in radians (2).
constexpr std::size_t pose_length = 9;

/// The cameras of all frames, from nine numbers per frame. size: of the frames as the model sees them.
///
/// `KitError` for another number of values, NaN or infinity, or a quaternion of length 0.
std::vector<Camera> decode_poses(const std::vector<float>& values, const FrameSize& size);

/// The encodings with each quaternion on the reference's side: q and -q are one rotation, not drift.
std::vector<float> with_quaternion_signs(const std::vector<float>& values, const std::vector<float>& reference);

/// The largest angles between the cameras of two pose encodings over all pairs of frames, in degrees.
///
/// - rotation: between relative rotations, from 0 to 180.
/// - translation: between directions of relative translations, from 0 to 90.
struct PoseErrors {
    double rotation;
    double translation;

    Json json() const;
};

/// None for one frame, for NaN, and for a quaternion of length 0.
std::optional<PoseErrors> pose_errors(const std::vector<float>& values, const std::vector<float>& reference);

}  // namespace vggt_edge
