#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace vggt_edge {

/// The side of one patch of the model: both sides of its input are multiples of it.
constexpr int patch = 14;

/// Width and height of a frame in pixels.
struct FrameSize {
    int width = 0;
    int height = 0;

    std::size_t pixel_count() const { return static_cast<std::size_t>(width) * static_cast<std::size_t>(height); }
    bool is_whole_patches() const { return width >= patch && height >= patch && width % patch == 0 && height % patch == 0; }
    bool operator==(const FrameSize& other) const { return width == other.width && height == other.height; }

    /// `KitError` unless both sides are from 1 to 32768.
    void check() const;

    /// Width x height.
    std::string text() const;

    /// The size of whole patches that best keeps the aspect ratio of a frame.
    ///
    /// The longer side becomes the largest multiple of 14 within `long_side`; the shorter one the multiple of 14 whose
    /// aspect ratio is nearest in the logarithm. It is what the exporter chooses for `--resolution`.
    static FrameSize fitting(const FrameSize& frame, int long_side);
};

/// The centred part of a source frame that a target frame shows, in source pixels.
///
/// A frame is scaled until it covers the target and cropped evenly: nothing is padded, nothing is stretched. Pixel
/// coordinates are continuous, the top-left corner of the image is (0, 0). scale: target pixels per source pixel.
struct FrameCrop {
    FrameCrop(const FrameSize& source, const FrameSize& target);

    double scale;
    double width;
    double height;
    double left;
    double top;
};

/// Turns by a multiple of 90 degrees.
enum class Turn { upright, clockwise, half, counterclockwise };

/// A picture of 8-bit sRGB pixels: red, green and blue of each pixel, row after row without gaps.
///
/// Decoding of JPEG, PNG and video is left to the app: alpha on white, colours in sRGB, EXIF orientation applied, as
/// docs/preprocessing.md says.
struct Picture {
    FrameSize size;
    std::vector<std::uint8_t> pixels;

    /// `KitError` unless there are three bytes for each pixel.
    void check() const;
};

Picture turned(const Picture& picture, Turn turn);

/// The picture scaled until it covers the target and cropped evenly, in one bicubic, antialiased resampling.
///
/// The bytes are those of the exporter's own reader (Pillow 13). Frames of about the model's aspect ratio lose least.
/// `KitError` for a target that is not made of whole patches, or has more than 2^26 pixels.
Picture resized_to_cover(const Picture& picture, const FrameSize& target);

/// Writes three planes, red, green, blue, with values from 0 to 1, to where the model reads them: the layout of one
/// frame of the input `images`. `to` has room for 3 x width x height numbers.
void put_planes(const Picture& picture, float* to);

}  // namespace vggt_edge
