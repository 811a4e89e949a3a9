// An app on the kit: opens the engine from its store, predicts, and makes points. Run twice by checks.py.

#include <cstdio>
#include <cstdlib>

#include "vggt_edge/camera.hpp"
#include "vggt_edge/engine.hpp"
#include "vggt_edge/points.hpp"

using namespace vggt_edge;

namespace {

void expect(bool holds, const char* what) {
    if (holds) return;
    std::printf("failed: %s\n", what);
    std::exit(1);
}

std::vector<float> values(const Engine& engine, std::size_t output) {
    const float* from = engine.output(output);
    return {from, from + engine.outputs()[output].count};
}

}  // namespace

int main(int count, char** arguments) try {
    expect(count == 3, "app FOLDER STORE");
    const std::filesystem::path folder = arguments[1];
    Engine engine = open_engine(folder, EngineStore(arguments[2]));
    const Golden golden = load_golden(folder, load_kit(folder));
    engine.check_outputs(golden);
    expect(!engine.uses_cuda_graph(), "no graph before the first prediction");
    for (int run = 0; run < 3; ++run) {
        const std::vector<float>& images = golden.inputs.at(engine.inputs()[0].name).values;
        std::copy(images.begin(), images.end(), engine.input(0));
        engine.submit();
        expect(!engine.is_done(), "a prediction runs while the app goes on");
        if (run == 1) {
            expect(engine.is_done(), "asked again, it is done");
        } else {
            engine.wait();
        }
        for (std::size_t output = 0; output < engine.outputs().size(); ++output) {
            expect(values(engine, output) == golden.expected[output].second.values, "outputs are those of the golden input");
        }
    }
    expect(engine.uses_cuda_graph(), "later predictions are one CUDA graph");
    const FrameSize size{28, 14};
    const std::vector<float> points = unproject(values(engine, 1), decode_poses(values(engine, 0), size), size);
    expect(points.size() == 3 * engine.outputs()[1].count, "a point per pixel");
    Engine moved = std::move(engine);
    moved.submit();  // still running when the engine goes
    return 0;
} catch (const KitError& error) {
    std::printf("error: %s\n", error.what());
    return static_cast<int>(error.code());
}
