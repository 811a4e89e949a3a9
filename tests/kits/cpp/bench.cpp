// Milliseconds of the processor for the kit's own arithmetic, the best of some runs: lines of `name<tab>milliseconds`.
// Not of the clock: the machine may be shared. See tests/benchmarks/jetson_kit.py.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <random>
#include <vector>

#include "vggt_edge/camera.hpp"
#include "vggt_edge/figures.hpp"
#include "vggt_edge/picture.hpp"
#include "vggt_edge/points.hpp"

namespace {

double processor_milliseconds() {
    timespec used{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return 1e3 * static_cast<double>(used.tv_sec) + 1e-6 * static_cast<double>(used.tv_nsec);
}

void report(const char* name, const std::function<void()>& action) {
    double least = 1e300;
    for (int run = 0; run < 8; ++run) {
        const double start = processor_milliseconds();
        action();
        least = std::min(least, processor_milliseconds() - start);
    }
    std::printf("%s\t%.3f\n", name, least);
}

std::vector<float> floats(std::size_t count, float from, float to) {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> any(from, to);
    std::vector<float> values(count);
    for (float& value : values) value = any(random);
    return values;
}

}  // namespace

int main() {
    using namespace vggt_edge;
    const FrameSize camera{1920, 1440}, target{392, 518}, size{518, 392};
    Picture frame{camera, std::vector<std::uint8_t>(3 * camera.pixel_count())};
    std::mt19937 random(1);
    for (std::uint8_t& level : frame.pixels) level = static_cast<std::uint8_t>(random());
    report("resize, 1920 x 1440, to 518 x 392", [&] { resized_to_cover(frame, size); });
    report("turn and resize, 1920 x 1440, to 392 x 518",
           [&] { resized_to_cover(turned(frame, Turn::clockwise), target); });
    const std::size_t pixels = 8 * size.pixel_count();
    const std::vector<float> reference = floats(3 * pixels, 0.5F, 1.5F);
    std::vector<float> values = reference;
    for (float& value : values) value += 1e-3F;
    report("drift, 4.9 million values", [&] { drift_of(values, reference); });
    const std::vector<float> confidence(reference.begin(), reference.begin() + static_cast<std::ptrdiff_t>(pixels));
    report("confident pixels, 1.6 million", [&] { confident_pixels({confidence}); });
    std::vector<float> poses;
    for (int index = 0; index < 8; ++index) poses.insert(poses.end(), {0.1F, 0, 0, 0.1F, 0.2F, 0.1F, 1, 1, 1.2F});
    const std::vector<Camera> cameras = decode_poses(poses, size);
    report("unproject, 8 x 392 x 518", [&] { unproject(confidence, cameras, size); });
}
