#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace vggt_edge {

/// The side of one patch of most models: both sides of the input are multiples of it; `Preprocess::patch`.
constexpr int patch = 14;

/// Width and height of a frame in pixels.
struct FrameSize {
    int width = 0;
    int height = 0;

    std::size_t pixel_count() const { return static_cast<std::size_t>(width) * static_cast<std::size_t>(height); }
    bool is_made_of(int side) const {
        return side > 0 && width >= side && height >= side && width % side == 0 && height % side == 0;
    }
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

/// What happens to a picture of another shape than the model's input.
///
/// - fit: scaled until it covers the input, cropped evenly.
/// - crop: scaled to the input's width; its height is cropped evenly, or filled up with white. VGGT's default.
/// - pad: scaled until all of it is inside; the rest is white.
enum class Mode { fit, crop, pad };

/// How a picture becomes the model's input; `kit.json` says which rule the model was exported with.
///
/// patch: `crop` and `pad` round the scaled side to a multiple of so many pixels.
struct Preprocess {
    Mode mode = Mode::fit;
    int patch = vggt_edge::patch;
};

/// Where the centre of the first pixel lies when depth becomes points: at 0.5, or at 0 as in VGGT's first releases.
enum class PixelCenters { half, integer };

/// A rectangle of whole pixels; right and bottom are the first ones outside.
struct FrameArea {
    int left;
    int top;
    int right;
    int bottom;

    int width() const { return right - left; }
    int height() const { return bottom - top; }
    bool contains(int column, int row) const { return column >= left && column < right && row >= top && row < bottom; }
    bool operator==(const FrameArea& other) const {
        return left == other.left && top == other.top && right == other.right && bottom == other.bottom;
    }
};

/// Where the pixels of a picture land in the model's input. Pixel coordinates are continuous: the top-left corner of an
/// image is (0, 0).
///
/// - scale_x, scale_y: pixels of the input per pixel of the picture; for `crop` and `pad` a little apart.
/// - left, top: the place of the picture's corner in the input; below 0 where the picture is cropped.
/// - content: the part of the input that shows the picture. Around it the input is white, and depth means nothing.
///
/// A place (u, v) of the input is ((u - left) / scale_x, (v - top) / scale_y) of the picture. `KitError` for a strip so
/// tall that `crop` would scale it to more than 32768 pixels.
struct Framing {
    Framing(const FrameSize& source, const FrameSize& target, const Preprocess& rule);

    double scale_x;
    double scale_y;
    double left;
    double top;
    FrameArea content;
    /// The part of the picture that is resampled: its left, top, right and bottom.
    double part[4];
    /// The size that the part becomes, and the place of its corner in the input.
    FrameSize resampled;
    int offset_x = 0;
    int offset_y = 0;
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

/// The picture as the model's input, by the rule of a kit; `Framing` says where its pixels went.
///
/// `KitError` as for `resized_to_cover` and `Framing`.
Picture framed(const Picture& picture, const FrameSize& target, const Preprocess& rule);

/// Writes three planes, red, green, blue, with values from 0 to 1, to where the model reads them: the layout of one
/// frame of the input `images`. `to` has room for 3 x width x height numbers.
void put_planes(const Picture& picture, float* to);

}  // namespace vggt_edge
