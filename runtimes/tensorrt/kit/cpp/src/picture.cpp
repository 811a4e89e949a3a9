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

namespace {

/// To the nearest multiple of a patch, at least one; halves to the even one.
double proportional(int side, int other, int scaled_other, int patch_side) {
    const double exact = side * (static_cast<double>(scaled_other) / other) / patch_side;
    return std::max(1.0, std::nearbyint(exact)) * patch_side;
}

int at_most(double side, int most) { return static_cast<int>(std::min(side, static_cast<double>(most))); }

FrameSize scaled(const FrameSize& source, const FrameSize& target, const Preprocess& rule) {
    const bool is_wide = static_cast<std::int64_t>(source.width) * target.height >=
                         static_cast<std::int64_t>(source.height) * target.width;
    if (rule.mode == Mode::crop || is_wide) {
        const double height = proportional(source.height, source.width, target.width, rule.patch);
        if (rule.mode == Mode::pad) return {target.width, at_most(height, target.height)};
        if (height <= longest_side) return {target.width, static_cast<int>(height)};
        throw wrong("a picture of " + source.text() + " pixels would be scaled to a height of " +
                        std::to_string(static_cast<std::int64_t>(height)),
                    "cut the picture, or export with --preprocess fit or pad");
    }
    return {at_most(proportional(source.width, source.height, target.height, rule.patch), target.width), target.height};
}

/// Of an odd number of pixels that are cut or white the larger half lies behind.
int corner(int resampled, int target) {
    return resampled > target ? -((resampled - target) / 2) : (target - resampled) / 2;
}

}  // namespace

Framing::Framing(const FrameSize& source, const FrameSize& target, const Preprocess& rule) {
    const FrameCrop crop(source, target);
    if (rule.patch < 1 || rule.patch > longest_side) {
        throw wrong("a patch of " + std::to_string(rule.patch) + " pixels", "give 1 to 32768");
    }
    const bool is_fit = rule.mode == Mode::fit;
    resampled = is_fit ? target : scaled(source, target, rule);
    part[0] = is_fit ? crop.left : 0;
    part[1] = is_fit ? crop.top : 0;
    part[2] = is_fit ? crop.left + crop.width : source.width;
    part[3] = is_fit ? crop.top + crop.height : source.height;
    scale_x = is_fit ? crop.scale : static_cast<double>(resampled.width) / source.width;
    scale_y = is_fit ? crop.scale : static_cast<double>(resampled.height) / source.height;
    offset_x = corner(resampled.width, target.width);
    offset_y = corner(resampled.height, target.height);
    left = offset_x - part[0] * scale_x;
    top = offset_y - part[1] * scale_y;
    content = {std::max(offset_x, 0), std::max(offset_y, 0), std::min(offset_x + resampled.width, target.width),
               std::min(offset_y + resampled.height, target.height)};
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

namespace {

Picture on_white(const Picture& shown, const FrameSize& target, const FrameArea& content) {
    Picture result{target, std::vector<std::uint8_t>(3 * target.pixel_count(), 255)};
    const auto width = static_cast<std::ptrdiff_t>(target.width);
    const std::ptrdiff_t length = 3 * static_cast<std::ptrdiff_t>(shown.size.width);
    for (std::ptrdiff_t row = 0; row < shown.size.height; ++row) {
        const auto from = shown.pixels.begin() + row * length;
        std::copy(from, from + length, result.pixels.begin() + 3 * ((content.top + row) * width + content.left));
    }
    return result;
}

}  // namespace

Picture resized_to_cover(const Picture& picture, const FrameSize& target) { return framed(picture, target, {}); }

Picture framed(const Picture& picture, const FrameSize& target, const Preprocess& rule) {
    picture.check();
    if (!target.is_made_of(rule.patch) || target.width > longest_side || target.height > longest_side ||
        target.pixel_count() > most_target_pixels) {
        throw wrong("a model input of " + target.text() + " pixels is not made of whole patches, or too large",
                    "use the size of the engine's input; both sides are multiples of " + std::to_string(rule.patch));
    }
    const FrameSize& source = picture.size;
    const Framing framing(source, target, rule);
    const auto [left, top, right, bottom] = framing.content;
    const auto kernel = [](int length, double start, double end, int output_length, int first, int count) {
        return ResamplingKernel(length, static_cast<float>(start), static_cast<float>(end), output_length, first, count);
    };
    const ResamplingKernel across = kernel(source.width, framing.part[0], framing.part[2], framing.resampled.width,
                                           left - framing.offset_x, right - left);
    const ResamplingKernel down = kernel(source.height, framing.part[1], framing.part[3], framing.resampled.height,
                                         top - framing.offset_y, bottom - top);
    // Each pass rounds to 8 bits, so their order shows. Pillow 13 begins with the columns where that drops more.
    const int dropped_rows = source.height - framing.resampled.height;
    const bool is_down_first = dropped_rows > 0 && dropped_rows > 2 * (source.width - framing.resampled.width);
    const Picture shown = is_down_first ? resampled_across(resampled_down(picture, down), across)
                                        : resampled_down(resampled_across(picture, across), down);
    return shown.size == target ? shown : on_white(shown, target, framing.content);
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
