#include "resampling.hpp"

#include <algorithm>
#include <cmath>

namespace vggt_edge {

namespace {

/// Bits behind the point of a weight.
constexpr int precision = 22;
constexpr std::int32_t half = 1 << (precision - 1);
/// Half the width of the bicubic, in samples of the coarser grid.
constexpr double support = 2;

double bicubic(double position) {
    const double x = std::abs(position);
    if (x < 1) return ((1.5 * x - 2.5) * x) * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0;
}

/// Rounds halves away from zero.
std::int32_t fixed_point(double weight) {
    return static_cast<std::int32_t>(weight * (1 << precision) + (weight < 0 ? -0.5 : 0.5));
}

std::uint8_t rounded(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> precision, std::int32_t{0}, std::int32_t{255}));
}

std::size_t offset(int line, int side) { return 3 * static_cast<std::size_t>(line) * static_cast<std::size_t>(side); }

}  // namespace

ResamplingKernel::ResamplingKernel(int source_length, float start, float end, int whole_length, int first_kept,
                                   int count) {
    const double scale = static_cast<double>(end - start) / whole_length;  // the difference in single precision
    stride_ = static_cast<std::size_t>(std::ceil(support * std::max(scale, 1.0))) * 2 + 1;
    weights_.reserve(stride_ * static_cast<std::size_t>(count));
    for (int index = first_kept; index < first_kept + count; ++index) {
        fill(source_length, start + (index + 0.5) * scale, scale);
    }
}

void ResamplingKernel::fill(int source_length, double center, double scale) {
    const double reach = support * std::max(scale, 1.0), narrowing = 1 / std::max(scale, 1.0);
    const int first = std::max(0, static_cast<int>(center - reach + 0.5));
    const int count = std::min(source_length, static_cast<int>(center + reach + 0.5)) - first;
    std::vector<double> exact(static_cast<std::size_t>(count));
    double total = 0;
    for (int index = 0; index < count; ++index) {
        total += exact[static_cast<std::size_t>(index)] = bicubic((index + first - center + 0.5) * narrowing);
    }
    for (double& weight : exact) weights_.push_back(fixed_point(total == 0 ? weight : weight / total));
    weights_.resize((firsts_.size() + 1) * stride_);
    firsts_.push_back(first);
    counts_.push_back(count);
}

ResamplingKernel::Window ResamplingKernel::window(int output) const {
    const auto index = static_cast<std::size_t>(output);
    return {firsts_[index], weights_.data() + index * stride_, counts_[index]};
}

Picture resampled_across(const Picture& picture, const ResamplingKernel& kernel) {
    const auto [width, height] = picture.size;
    Picture result{{kernel.output_length(), height}, {}};
    result.pixels.resize(3 * result.size.pixel_count());
    std::uint8_t* to = result.pixels.data();
    for (int row = 0; row < height; ++row) {
        const std::uint8_t* line = picture.pixels.data() + offset(row, width);
        for (int output = 0; output < kernel.output_length(); ++output) {
            const auto [first, weights, count] = kernel.window(output);
            const std::uint8_t* from = line + offset(first, 1);
            std::int32_t red = half, green = half, blue = half;
            for (int index = 0; index < count; ++index, from += 3) {
                red += from[0] * weights[index];
                green += from[1] * weights[index];
                blue += from[2] * weights[index];
            }
            *to++ = rounded(red);
            *to++ = rounded(green);
            *to++ = rounded(blue);
        }
    }
    return result;
}

Picture resampled_down(const Picture& picture, const ResamplingKernel& kernel) {
    const int width = picture.size.width;
    Picture result{{width, kernel.output_length()}, {}};
    result.pixels.resize(3 * result.size.pixel_count());
    std::vector<std::int32_t> sums(offset(1, width));
    for (int output = 0; output < kernel.output_length(); ++output) {
        const auto [first, weights, count] = kernel.window(output);
        std::fill(sums.begin(), sums.end(), half);
        for (int index = 0; index < count; ++index) {
            const std::uint8_t* line = picture.pixels.data() + offset(first + index, width);
            for (std::size_t column = 0; column < sums.size(); ++column) sums[column] += line[column] * weights[index];
        }
        std::uint8_t* to = result.pixels.data() + offset(output, width);
        for (const std::int32_t sum : sums) *to++ = rounded(sum);
    }
    return result;
}

}  // namespace vggt_edge
