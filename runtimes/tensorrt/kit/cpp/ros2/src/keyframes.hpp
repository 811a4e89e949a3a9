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
    /// rule: how a frame becomes the model's input.
    Keyframes(std::size_t count, vggt_edge::FrameSize size, double interval_s, vggt_edge::Preprocess rule = {})
        : count_(count), size_(size), interval_s_(interval_s), rule_(rule) {}

    /// Whether a frame of this time, in seconds, becomes a keyframe: only then is it worth preparing.
    bool wants(double time_s) {
        if (last_s_ && time_s < *last_s_) clear();
        return !last_s_ || time_s - *last_s_ >= interval_s_;
    }

    void add(const vggt_edge::Picture& picture, double time_s) {
        std::vector<float> planes(3 * size_.pixel_count());
        vggt_edge::put_planes(vggt_edge::framed(picture, size_, rule_), planes.data());
        if (frames_.size() == count_) {
            frames_.pop_front();
            contents_.erase(contents_.begin());
        }
        frames_.push_back(std::move(planes));
        contents_.push_back(vggt_edge::Framing(picture.size, size_, rule_).content);
        last_s_ = time_s;
    }

    /// The part of the model's input that shows each keyframe.
    const std::vector<vggt_edge::FrameArea>& contents() const { return contents_; }

    bool is_full() const { return frames_.size() == count_; }

    /// Writes all keyframes to the input of an engine.
    void put(float* to) const {
        for (const std::vector<float>& planes : frames_) to = std::copy(planes.begin(), planes.end(), to);
    }

    void clear() {
        frames_.clear();
        contents_.clear();
        last_s_.reset();
    }

private:
    std::size_t count_;
    vggt_edge::FrameSize size_;
    double interval_s_;
    vggt_edge::Preprocess rule_;
    std::deque<std::vector<float>> frames_;
    std::vector<vggt_edge::FrameArea> contents_;
    std::optional<double> last_s_;
};

}  // namespace vggt_edge_ros
