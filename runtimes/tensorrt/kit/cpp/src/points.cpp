#include "vggt_edge/points.hpp"

#include <algorithm>
#include <cmath>

#include "vggt_edge/error.hpp"
#include "vggt_edge/figures.hpp"
#include "vggt_edge/tensor.hpp"

namespace vggt_edge {

namespace {

constexpr double smallest_confidence = 1e-12;

KitError not_finite(const std::string& what) {
    return KitError(Exit::accuracy, "NaN or infinity among the " + what,
                    "run the check; if it fails too, export again with the depth and point heads in fp32");
}

void unproject_frame(const float* depth, const Camera& camera, const FrameSize& size, double center, float* points) {
    const Matrix3& turn = camera.extrinsics.rotation;
    const Vector3& shift = camera.extrinsics.translation;
    const Intrinsics& lens = camera.intrinsics;
    for (int row = 0; row < size.height; ++row) {
        const double down = (row + center - lens.center_y) / lens.focal_y;
        for (int column = 0; column < size.width; ++column) {
            const double distance = *depth++;
            const double x = (column + center - lens.center_x) / lens.focal_x * distance - shift[0];
            const double y = down * distance - shift[1];
            const double z = distance - shift[2];
            for (std::size_t axis = 0; axis < 3; ++axis) {
                *points++ = static_cast<float>(turn[0][axis] * x + turn[1][axis] * y + turn[2][axis] * z);
            }
        }
    }
}

}  // namespace

std::vector<float> unproject(const std::vector<float>& depth, const std::vector<Camera>& cameras, const FrameSize& size,
                             PixelCenters centers) {
    size.check();
    const std::size_t pixels = size.pixel_count();
    if (cameras.empty() || depth.size() % pixels != 0 || depth.size() / pixels != cameras.size()) {
        throw KitError(Exit::usage,
                       std::to_string(depth.size()) + " depths for " + std::to_string(cameras.size()) + " frames of " +
                           size.text() + " pixels",
                       "pass depth and cameras of one prediction, and its frame size");
    }
    if (!all_finite(depth)) throw not_finite("depths");
    const double center = centers == PixelCenters::half ? 0.5 : 0;
    std::vector<float> points(3 * depth.size());
    for (std::size_t frame = 0; frame < cameras.size(); ++frame) {
        unproject_frame(depth.data() + frame * pixels, cameras[frame], size, center, points.data() + 3 * frame * pixels);
    }
    return points;
}

std::vector<bool> shown_pixels(const std::vector<FrameArea>& contents, const FrameSize& size) {
    size.check();
    std::vector<bool> shown;
    shown.reserve(contents.size() * size.pixel_count());
    for (const FrameArea& content : contents) {
        for (int row = 0; row < size.height; ++row) {
            for (int column = 0; column < size.width; ++column) shown.push_back(content.contains(column, row));
        }
    }
    return shown;
}

std::vector<bool> confident_pixels(const std::vector<std::vector<float>>& confidences, double share,
                                   const std::vector<bool>& shown) {
    const std::size_t count = confidences.empty() ? 0 : confidences.front().size();
    const bool are_alike = std::all_of(confidences.begin(), confidences.end(),
                                       [&](const std::vector<float>& map) { return map.size() == count; });
    const bool is_masked = !shown.empty() && shown.size() == count;
    if (count == 0 || !are_alike || !(share >= 0 && share <= 1) || is_masked == shown.empty()) {
        throw KitError(Exit::usage, "no mask from " + std::to_string(confidences.size()) + " confidence maps",
                       "pass confidence maps of one prediction and a share from 0 to 1");
    }
    std::vector<double> joint(count);
    for (const std::vector<float>& map : confidences) {
        if (!all_finite(map)) throw not_finite("confidences");
        for (std::size_t index = 0; index < count; ++index) {
            joint[index] += std::log(std::max<double>(map[index], smallest_confidence));
        }
    }
    std::vector<bool> keep(count);
    std::vector<double> ordered;
    for (std::size_t index = 0; index < count; ++index) {
        if (!is_masked || shown[index]) ordered.push_back(joint[index]);
    }
    if (ordered.empty()) return keep;
    const double limit = percentile(ordered, 1 - share);
    for (std::size_t index = 0; index < count; ++index) {
        keep[index] = joint[index] >= limit && (!is_masked || shown[index]);
    }
    return keep;
}

}  // namespace vggt_edge
