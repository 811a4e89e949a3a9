#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <vector>

#include "vggt_edge/picture.hpp"

namespace vggt_edge_ros {

/// The last keyframes as the model takes them, the oldest first.
///
/// A frame becomes a keyframe if `interval_s` has passed since the last one. When time jumps back, as when a recording
/// starts again, the window starts again too.
class Keyframes {
public:
    Keyframes(std::size_t count, vggt_edge::FrameSize size, double interval_s)
        : count_(count), size_(size), interval_s_(interval_s) {}

    /// Whether a frame of this time, in seconds, becomes a keyframe: only then is it worth preparing.
    bool wants(double time_s) {
        if (last_s_ && time_s < *last_s_) clear();
        return !last_s_ || time_s - *last_s_ >= interval_s_;
    }

    void add(const vggt_edge::Picture& picture, double time_s) {
        std::vector<float> planes(3 * size_.pixel_count());
        vggt_edge::put_planes(vggt_edge::resized_to_cover(picture, size_), planes.data());
        if (frames_.size() == count_) frames_.pop_front();
        frames_.push_back(std::move(planes));
        last_s_ = time_s;
    }

    bool is_full() const { return frames_.size() == count_; }

    /// Writes all keyframes to the input of an engine.
    void put(float* to) const {
        for (const std::vector<float>& planes : frames_) to = std::copy(planes.begin(), planes.end(), to);
    }

    void clear() {
        frames_.clear();
        last_s_.reset();
    }

private:
    std::size_t count_;
    vggt_edge::FrameSize size_;
    double interval_s_;
    std::deque<std::vector<float>> frames_;
    std::optional<double> last_s_;
};

}  // namespace vggt_edge_ros
