#include "vggt_edge/camera.hpp"

#include <algorithm>
#include <cmath>

#include "vggt_edge/error.hpp"
#include "vggt_edge/tensor.hpp"

namespace vggt_edge {

namespace {

constexpr double pi = 3.14159265358979323846;
// A field of view of 0 (the encoding ends in a ReLU) or of 180 degrees has no finite camera.
constexpr double narrowest = 1e-3;
constexpr double widest = pi - 1e-3;
constexpr double shortest_quaternion = 1e-12;
/// Cameras nearer to each other than this share of the longest baseline stand in the same place.
constexpr double standing = 1e-6;

double dot(const Vector3& a, const Vector3& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

double length(const Vector3& vector) { return std::sqrt(dot(vector, vector)); }

Vector3 minus(const Vector3& a, const Vector3& b) { return {a[0] - b[0], a[1] - b[1], a[2] - b[2]}; }

Vector3 times(const Matrix3& matrix, const Vector3& vector) {
    return {dot(matrix[0], vector), dot(matrix[1], vector), dot(matrix[2], vector)};
}

Matrix3 transposed(const Matrix3& m) {
    return {Vector3{m[0][0], m[1][0], m[2][0]}, Vector3{m[0][1], m[1][1], m[2][1]}, Vector3{m[0][2], m[1][2], m[2][2]}};
}

Matrix3 times(const Matrix3& a, const Matrix3& b) {
    const Matrix3 columns = transposed(b);
    return {times(columns, a[0]), times(columns, a[1]), times(columns, a[2])};
}

/// The rotation of a quaternion of any length but 0.
std::optional<Matrix3> rotation(double qx, double qy, double qz, double qw) {
    const double size = std::sqrt(qx * qx + qy * qy + qz * qz + qw * qw);
    if (!(size >= shortest_quaternion)) return std::nullopt;
    const double x = qx / size, y = qy / size, z = qz / size, w = qw / size;
    return Matrix3{Vector3{1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)},
                   Vector3{2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)},
                   Vector3{2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)}};
}

/// Exact also near 0 and 180 degrees, where the arc cosine is not.
double degrees(double sine, double cosine) { return std::atan2(sine, cosine) * 180 / pi; }

double angle(const Vector3& a, const Vector3& b) {
    const Vector3 cross{a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
    return degrees(length(cross), dot(a, b));
}

double angle(const Matrix3& a, const Matrix3& b) {
    const Matrix3 m = times(transposed(a), b);
    const Vector3 axis{m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]};
    return degrees(length(axis), m[0][0] + m[1][1] + m[2][2] - 1);
}

Extrinsics relative(const Extrinsics& first, const Extrinsics& second) {
    const Matrix3 turn = times(second.rotation, transposed(first.rotation));
    return {turn, minus(second.translation, times(turn, first.translation))};
}

/// The pose of each later camera in the coordinates of each earlier one; empty where an encoding holds no camera.
std::vector<Extrinsics> relative_poses(const std::vector<float>& values) {
    std::vector<Extrinsics> cameras, result;
    for (std::size_t start = 0; start + pose_length <= values.size(); start += pose_length) {
        const float* v = values.data() + start;
        const std::optional<Matrix3> turn = rotation(v[3], v[4], v[5], v[6]);
        if (!turn) return {};
        cameras.push_back({*turn, {v[0], v[1], v[2]}});
    }
    for (std::size_t first = 0; first < cameras.size(); ++first) {
        for (std::size_t second = first + 1; second < cameras.size(); ++second) {
            result.push_back(relative(cameras[first], cameras[second]));
        }
    }
    return result;
}

double standing_baseline(const std::vector<Extrinsics>& poses) {
    double longest = standing;
    for (const Extrinsics& pose : poses) longest = std::max(longest, length(pose.translation));
    return standing * longest;
}

}  // namespace

Vector3 Extrinsics::to_camera(const Vector3& point) const {
    const Vector3 turned = times(rotation, point);
    return {turned[0] + translation[0], turned[1] + translation[1], turned[2] + translation[2]};
}

Vector3 Extrinsics::to_world(const Vector3& point) const {
    return times(transposed(rotation), minus(point, translation));
}

Intrinsics Intrinsics::resized(const FrameSize& source, const FrameSize& target) const {
    const FrameCrop crop(source, target);
    return {focal_x * crop.scale, focal_y * crop.scale, center_x * crop.scale - crop.left * crop.scale,
            center_y * crop.scale - crop.top * crop.scale};
}

Intrinsics Intrinsics::framed(const Framing& framing) const {
    return {focal_x * framing.scale_x, focal_y * framing.scale_y, center_x * framing.scale_x + framing.left,
            center_y * framing.scale_y + framing.top};
}

std::vector<Camera> decode_poses(const std::vector<float>& values, const FrameSize& size) {
    if (values.empty() || values.size() % pose_length != 0) {
        throw KitError(Exit::usage, "a pose encoding of " + std::to_string(values.size()) + " numbers",
                       "pass the whole output pose_enc, 9 numbers per frame");
    }
    if (!all_finite(values)) {
        throw KitError(Exit::accuracy, "a pose encoding holds NaN or infinity",
                       "run the check; if it fails too, export again with more blocks in fp32");
    }
    std::vector<Camera> cameras;
    for (std::size_t start = 0; start < values.size(); start += pose_length) {
        const float* v = values.data() + start;
        const std::optional<Matrix3> turn = rotation(v[3], v[4], v[5], v[6]);
        if (!turn) {
            throw KitError(Exit::accuracy, "a quaternion of length 0 is no rotation",
                           "run the check; if it fails too, export again with the camera head in fp32");
        }
        const double vertical = std::clamp<double>(v[7], narrowest, widest);
        const double horizontal = std::clamp<double>(v[8], narrowest, widest);
        const double half_width = size.width / 2.0, half_height = size.height / 2.0;
        cameras.push_back({{*turn, {v[0], v[1], v[2]}},
                           {half_width / std::tan(horizontal / 2), half_height / std::tan(vertical / 2), half_width,
                            half_height}});
    }
    return cameras;
}

std::vector<float> with_quaternion_signs(const std::vector<float>& values, const std::vector<float>& reference) {
    if (values.size() != reference.size() || values.size() % pose_length != 0) {
        throw KitError(Exit::usage,
                       "pose encodings of " + std::to_string(values.size()) + " and " +
                           std::to_string(reference.size()) + " numbers",
                       "compare two outputs pose_enc of the same frames");
    }
    std::vector<float> result = values;
    for (std::size_t start = 0; start < values.size(); start += pose_length) {
        double product = 0;
        for (std::size_t index = start + 3; index < start + 7; ++index) {
            product += static_cast<double>(values[index]) * reference[index];
        }
        if (!(product < 0)) continue;
        for (std::size_t index = start + 3; index < start + 7; ++index) result[index] = -values[index];
    }
    return result;
}

Json PoseErrors::json() const {
    return Json::Table{{"rotation_degrees", rotation}, {"translation_degrees", translation}};
}

std::optional<PoseErrors> pose_errors(const std::vector<float>& values, const std::vector<float>& reference) {
    if (values.size() != reference.size() || !all_finite(values) || !all_finite(reference)) return std::nullopt;
    const std::vector<Extrinsics> ours = relative_poses(values), truth = relative_poses(reference);
    if (ours.empty() || truth.empty()) return std::nullopt;
    const double our_standing = standing_baseline(ours), true_standing = standing_baseline(truth);
    PoseErrors errors{0, 0};
    for (std::size_t index = 0; index < truth.size(); ++index) {
        errors.rotation = std::max(errors.rotation, angle(truth[index].rotation, ours[index].rotation));
        if (length(truth[index].translation) <= true_standing) continue;
        const double turned = angle(truth[index].translation, ours[index].translation);
        const bool is_standing = length(ours[index].translation) <= our_standing;
        errors.translation = std::max(errors.translation, is_standing ? 90.0 : std::min(turned, 180 - turned));
    }
    return errors;
}

}  // namespace vggt_edge
