#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <geometry_msgs/msg/transform_stamped.hpp>
#include <sensor_msgs/msg/camera_info.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <sensor_msgs/msg/point_cloud2.hpp>
#include <std_msgs/msg/header.hpp>

#include "vggt_edge/camera.hpp"

namespace vggt_edge_ros {

/// The pixels of an image message; none for an encoding other than rgb8 and bgr8, or for too few bytes.
inline std::optional<vggt_edge::Picture> picture_of(const sensor_msgs::msg::Image& image) {
    const bool is_bgr = image.encoding == "bgr8";
    const std::size_t row = 3 * static_cast<std::size_t>(image.width);
    if ((!is_bgr && image.encoding != "rgb8") || image.width == 0 || image.width > 32768 || image.height > 32768 ||
        image.step < row || image.data.size() < static_cast<std::size_t>(image.step) * image.height) {
        return std::nullopt;
    }
    vggt_edge::Picture picture{{static_cast<int>(image.width), static_cast<int>(image.height)}, {}};
    picture.pixels.reserve(row * image.height);
    for (std::size_t line = 0; line < image.height; ++line) {
        const auto from = image.data.begin() + static_cast<std::ptrdiff_t>(line * image.step);
        picture.pixels.insert(picture.pixels.end(), from, from + static_cast<std::ptrdiff_t>(row));
    }
    for (std::size_t pixel = 0; is_bgr && pixel + 2 < picture.pixels.size(); pixel += 3) {
        std::swap(picture.pixels[pixel], picture.pixels[pixel + 2]);
    }
    return picture;
}

/// Depth along the optical axis of one frame. Not in metres: the model knows no scale.
inline sensor_msgs::msg::Image depth_image(const std_msgs::msg::Header& header, const float* depth,
                                           const vggt_edge::FrameSize& size) {
    sensor_msgs::msg::Image image;
    image.header = header;
    image.width = static_cast<std::uint32_t>(size.width);
    image.height = static_cast<std::uint32_t>(size.height);
    image.encoding = "32FC1";
    image.is_bigendian = 0;
    image.step = 4 * image.width;
    image.data.resize(4 * size.pixel_count());
    std::memcpy(image.data.data(), depth, image.data.size());
    return image;
}

/// The camera as the model sees it: of the resized picture, without distortion.
///
/// The model counts from the corner of the first pixel, ROS from its centre: half a pixel less.
inline sensor_msgs::msg::CameraInfo camera_info(const std_msgs::msg::Header& header, const vggt_edge::Intrinsics& lens,
                                                const vggt_edge::FrameSize& size) {
    sensor_msgs::msg::CameraInfo info;
    info.header = header;
    info.width = static_cast<std::uint32_t>(size.width);
    info.height = static_cast<std::uint32_t>(size.height);
    info.distortion_model = "plumb_bob";
    info.d = {0, 0, 0, 0, 0};
    const double x = lens.center_x - 0.5, y = lens.center_y - 0.5;
    info.k = {lens.focal_x, 0, x, 0, lens.focal_y, y, 0, 0, 1};
    info.r = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    info.p = {lens.focal_x, 0, x, 0, 0, lens.focal_y, y, 0, 0, 0, 1, 0};
    return info;
}

/// points: x, y, z of one after the other. keep: which of them are published.
inline sensor_msgs::msg::PointCloud2 point_cloud(const std_msgs::msg::Header& header, const std::vector<float>& points,
                                                 const std::vector<bool>& keep) {
    sensor_msgs::msg::PointCloud2 cloud;
    cloud.header = header;
    for (const char* name : {"x", "y", "z"}) {
        sensor_msgs::msg::PointField field;
        field.name = name;
        field.offset = static_cast<std::uint32_t>(4 * cloud.fields.size());
        field.datatype = sensor_msgs::msg::PointField::FLOAT32;
        field.count = 1;
        cloud.fields.push_back(field);
    }
    std::vector<float> kept;
    for (std::size_t index = 0; index < keep.size(); ++index) {
        const auto from = points.begin() + static_cast<std::ptrdiff_t>(3 * index);
        if (keep[index]) kept.insert(kept.end(), from, from + 3);
    }
    cloud.height = 1;
    cloud.width = static_cast<std::uint32_t>(kept.size() / 3);
    cloud.is_bigendian = false;
    cloud.is_dense = true;
    cloud.point_step = 12;
    cloud.row_step = 12 * cloud.width;
    cloud.data.resize(4 * kept.size());
    std::memcpy(cloud.data.data(), kept.data(), cloud.data.size());
    return cloud;
}

/// Where a camera is in the world: the inverse of its extrinsics.
inline geometry_msgs::msg::TransformStamped transform(const std_msgs::msg::Header& header, const std::string& child,
                                                      const vggt_edge::Extrinsics& pose) {
    geometry_msgs::msg::TransformStamped result;
    result.header = header;
    result.child_frame_id = child;
    const vggt_edge::Vector3 center = pose.center();
    result.transform.translation.x = center[0];
    result.transform.translation.y = center[1];
    result.transform.translation.z = center[2];
    // Camera to world is the transpose. Of four ways to the quaternion, the one with the largest divisor.
    const vggt_edge::Matrix3& r = pose.rotation;
    const double trace = r[0][0] + r[1][1] + r[2][2];
    double q[4] = {0, 0, 0, 0};  // x, y, z, w
    if (trace > 0) {
        const double s = 2 * std::sqrt(1 + trace);
        q[3] = s / 4;
        for (std::size_t i = 0; i < 3; ++i) q[i] = (r[(i + 1) % 3][(i + 2) % 3] - r[(i + 2) % 3][(i + 1) % 3]) / s;
    } else {
        const std::size_t i = r[0][0] > r[1][1] && r[0][0] > r[2][2] ? 0 : r[1][1] > r[2][2] ? 1 : 2;
        const std::size_t j = (i + 1) % 3, k = (i + 2) % 3;
        const double s = 2 * std::sqrt(std::max(0.0, 1 + r[i][i] - r[j][j] - r[k][k]));
        q[i] = s / 4;
        q[j] = (r[i][j] + r[j][i]) / s;
        q[k] = (r[i][k] + r[k][i]) / s;
        q[3] = (r[j][k] - r[k][j]) / s;
    }
    result.transform.rotation.x = q[0];
    result.transform.rotation.y = q[1];
    result.transform.rotation.z = q[2];
    result.transform.rotation.w = q[3];
    return result;
}

}  // namespace vggt_edge_ros
