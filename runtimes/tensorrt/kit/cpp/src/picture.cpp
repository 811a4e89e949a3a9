#include "vggt_edge/picture.hpp"

#include <algorithm>
#include <cmath>

#include "resampling.hpp"
#include "vggt_edge/error.hpp"

namespace vggt_edge {

namespace {

constexpr int longest_side = 1 << 15;
constexpr std::size_t most_target_pixels = 1 << 26;

KitError wrong(const std::string& what, const std::string& remedy) { return KitError(Exit::usage, what, remedy); }

}  // namespace

void FrameSize::check() const {
    if (width < 1 || width > longest_side || height < 1 || height > longest_side) {
        throw wrong("a frame of " + text() + " pixels", "give sides from 1 to 32768");
    }
}

std::string FrameSize::text() const { return std::to_string(width) + " x " + std::to_string(height); }

FrameSize FrameSize::fitting(const FrameSize& frame, int long_side) {
    frame.check();
    if (long_side < patch) {
        throw wrong("a frame of " + frame.text() + " has no size within " + std::to_string(long_side) + " pixels",
                    "give a long side of at least 14");
    }
    const int long_patches = long_side / patch;
    const double exact = long_patches * static_cast<double>(std::min(frame.width, frame.height)) /
                         std::max(frame.width, frame.height);
    const int below = std::max(1, static_cast<int>(std::floor(exact)));
    const int above = std::min(below + 1, long_patches);
    const bool below_is_nearer = std::abs(std::log(below / exact)) <= std::abs(std::log(above / exact));
    const int longer = long_patches * patch, shorter = (below_is_nearer ? below : above) * patch;
    return frame.width >= frame.height ? FrameSize{longer, shorter} : FrameSize{shorter, longer};
}

FrameCrop::FrameCrop(const FrameSize& source, const FrameSize& target) {
    source.check();
    target.check();
    scale = std::max(static_cast<double>(target.width) / source.width, static_cast<double>(target.height) / source.height);
    width = std::min(target.width / scale, static_cast<double>(source.width));
    height = std::min(target.height / scale, static_cast<double>(source.height));
    left = (source.width - width) / 2;
    top = (source.height - height) / 2;
}

void Picture::check() const {
    size.check();
    if (pixels.size() != 3 * size.pixel_count()) {
        throw wrong("a picture of " + size.text() + " pixels has " + std::to_string(pixels.size()) + " bytes",
                    "give three bytes for each pixel, without gaps between the rows");
    }
}

Picture turned(const Picture& picture, Turn turn) {
    picture.check();
    const auto [width, height] = picture.size;
    const bool is_quarter = turn == Turn::clockwise || turn == Turn::counterclockwise;
    Picture result{is_quarter ? FrameSize{height, width} : picture.size, {}};
    result.pixels.resize(picture.pixels.size());
    // Where the first pixel goes, and how many bytes from there the next row and the next column of the source go.
    const std::ptrdiff_t line = 3 * static_cast<std::ptrdiff_t>(result.size.width);
    std::ptrdiff_t start = 0, down = line, right = 3;
    if (turn == Turn::half) {
        start = (height - 1) * line + 3 * static_cast<std::ptrdiff_t>(width - 1);
        down = -line;
        right = -3;
    } else if (turn == Turn::clockwise) {
        start = line - 3;
        down = -3;
        right = line;
    } else if (turn == Turn::counterclockwise) {
        start = (width - 1) * line;
        down = 3;
        right = -line;
    }
    // A strip of rows stays in the processor's cache while its columns are written as rows.
    constexpr int strip = 32;
    for (int first = 0; first < height; first += strip) {
        const int last = std::min(height, first + strip);
        for (std::ptrdiff_t column = 0; column < width; ++column) {
            for (std::ptrdiff_t row = first; row < last; ++row) {
                const std::uint8_t* from = picture.pixels.data() + 3 * (row * width + column);
                std::uint8_t* to = result.pixels.data() + (start + row * down + column * right);
                to[0] = from[0];
                to[1] = from[1];
                to[2] = from[2];
            }
        }
    }
    return result;
}

Picture resized_to_cover(const Picture& picture, const FrameSize& target) {
    picture.check();
    if (!target.is_whole_patches() || target.width > longest_side || target.height > longest_side ||
        target.pixel_count() > most_target_pixels) {
        throw wrong("a model input of " + target.text() + " pixels is not made of whole patches, or too large",
                    "use the size of the engine's input; both sides are multiples of 14");
    }
    const FrameSize& source = picture.size;
    const FrameCrop crop(source, target);
    const ResamplingKernel across(source.width, static_cast<float>(crop.left),
                                  static_cast<float>(crop.left + crop.width), target.width);
    const ResamplingKernel down(source.height, static_cast<float>(crop.top),
                                static_cast<float>(crop.top + crop.height), target.height);
    // Each pass rounds to 8 bits, so their order shows. Pillow 13 begins with the columns where that drops more.
    const int dropped_rows = source.height - target.height;
    const bool is_down_first = dropped_rows > 0 && dropped_rows > 2 * (source.width - target.width);
    if (is_down_first) return resampled_across(resampled_down(picture, down), across);
    return resampled_down(resampled_across(picture, across), down);
}

void put_planes(const Picture& picture, float* to) {
    picture.check();
    const std::size_t count = picture.size.pixel_count();
    for (std::size_t channel = 0; channel < 3; ++channel) {
        for (std::size_t index = 0; index < count; ++index) {
            *to++ = static_cast<float>(picture.pixels[3 * index + channel]) / 255.0f;
        }
    }
}

}  // namespace vggt_edge
