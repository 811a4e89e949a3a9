#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vggt_edge/engine_store.hpp"
#include "vggt_edge/kit.hpp"

namespace vggt_edge {

/// How to build. workspace_mib: limit of the builder's workspace. optimization_level: from 0 to 5. None: TensorRT's own.
struct BuildOptions {
    std::optional<int> workspace_mib;
    std::optional<int> optimization_level;
};

/// What runs engines here. version: of TensorRT. capability: compute capability of the GPU, such as `8.7`.
struct Runtime {
    std::string version;
    std::string capability;

    /// What an engine depends on beside its graph.
    std::string identity() const { return "tensorrt " + version + " gpu " + capability; }
};

/// Finds TensorRT 10.3 or later and a GPU; `KitError` with `Exit::toolchain` where one of them is missing.
Runtime find_runtime();

/// `KitError` with `Exit::toolchain` where a kit needs a later TensorRT, or TensorRT for RTX.
void check_runtime(const Runtime& runtime, const Kit& kit);

/// The serialized engine of a graph whose files were verified (`load_kit`). Takes minutes.
///
/// `KitError` with `Exit::lowering` where TensorRT refuses the graph, `Exit::resources` where memory runs out.
std::string build_engine(const std::filesystem::path& folder, const Kit& kit, const BuildOptions& options = {});

/// A tensor of an engine by its name, float32.
struct TensorInfo {
    std::string name;
    Shape shape;
    std::size_t count;
};

/// A deserialized engine with its buffers, on a stream of its own.
///
/// Frames are written to pinned memory, predictions run asynchronously, and results come back in pinned memory:
///
/// ```
/// put_planes(picture, engine.input(0));
/// engine.submit();
/// ...
/// engine.wait();
/// use(engine.output(0));
/// ```
///
/// For one thread at a time. Every call of a failed function of CUDA or TensorRT throws `KitError`.
class Engine {
public:
    /// serialized: made by `build_engine` in this process or taken from an `EngineStore`. An engine is native code: never
    /// pass one of unknown origin.
    explicit Engine(const std::string& serialized);
    ~Engine();
    Engine(Engine&&) noexcept;
    Engine& operator=(Engine&&) noexcept;

    const std::vector<TensorInfo>& inputs() const;
    const std::vector<TensorInfo>& outputs() const;

    /// Pinned memory, `inputs()[index].count` numbers. Not to be changed between `submit` and `wait`.
    float* input(std::size_t index);

    /// Pinned memory with the result of the last prediction, `outputs()[index].count` numbers, valid after `wait`.
    const float* output(std::size_t index) const;

    /// Queues a prediction: inputs to the GPU, the engine, outputs back. Returns at once.
    void submit();

    /// Whether everything that was submitted is done.
    bool is_done() const;

    /// Waits until everything that was submitted is done.
    void wait();

    /// The times of the engine alone in one prediction, without the copies, in milliseconds.
    struct Timing {
        double wall_ms;
        double gpu_ms;
    };

    /// Copies inputs, runs the engine and waits; outputs are copied after the clock has stopped.
    Timing predict_timed();

    /// Whether predictions are launched as one CUDA graph: from the second one on, if the engine can be captured.
    bool uses_cuda_graph() const;

    /// Memory that the engine took on the GPU, in bytes.
    std::int64_t memory_bytes() const;

    /// The engine inspector's report, JSON.
    std::string inspect() const;

    /// `KitError` unless the outputs are these, in this order.
    void check_outputs(const Golden& golden) const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// The engine of a bundle's TensorRT folder: from the store if this user of this device has built it before, else built
/// now and stored. The files of the folder are verified first.
Engine open_engine(const std::filesystem::path& folder, const EngineStore& store, const BuildOptions& options = {});

}  // namespace vggt_edge
