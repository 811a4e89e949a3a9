#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vggt_edge/picture.hpp"

namespace vggt_edge {

/// Which source samples make one output sample along one axis, and with which weights.
///
/// Bicubic (a = -0.5) with antialiasing, in fixed point with 22 bits: the arithmetic of Pillow's resize for 8-bit
/// pictures, which the exporter's readers use.
class ResamplingKernel {
public:
    /// The part from `start` to `end`, in source samples, becomes `whole_length` samples, of which `count` from
    /// `first_kept` on are made.
    ResamplingKernel(int source_length, float start, float end, int whole_length, int first_kept, int count);

    /// One output sample: the source samples from `first` on, as many as there are weights.
    struct Window {
        int first;
        const std::int32_t* weights;
        int count;
    };

    int output_length() const { return static_cast<int>(firsts_.size()); }
    Window window(int output) const;

private:
    void fill(int source_length, double center, double scale);

    std::size_t stride_;
    std::vector<int> firsts_;
    std::vector<int> counts_;
    std::vector<std::int32_t> weights_;
};

/// The picture with another width.
Picture resampled_across(const Picture& picture, const ResamplingKernel& kernel);

/// The picture with another height.
Picture resampled_down(const Picture& picture, const ResamplingKernel& kernel);

}  // namespace vggt_edge
