#include "vggt_edge/engine.hpp"

#include <NvInfer.h>

#include <chrono>
#include <cstdio>

#include "cuda.hpp"
#include "logger.hpp"

namespace vggt_edge {

namespace {

std::size_t used_bytes() {
    std::size_t free = 0, total = 0;
    cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return total - free;
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

TensorInfo info_of(const nvinfer1::ICudaEngine& engine, const char* name) {
    const nvinfer1::Dims sides = engine.getTensorShape(name);
    TensorInfo info{name, Shape(sides.d, sides.d + (sides.nbDims > 0 ? sides.nbDims : 0)), 0};
    if (engine.getTensorDataType(name) != nvinfer1::DataType::kFLOAT) {
        throw KitError(Exit::lowering, info.name + " of the engine is not float32");
    }
    try {
        if (sides.nbDims < 0) throw JsonProblem("its shape is only known when it runs");
        info.count = static_cast<std::size_t>(vggt_edge::count(info.shape));
    } catch (const JsonProblem& problem) {
        throw KitError(Exit::lowering, info.name + " of the engine cannot be held: " + problem.what());
    }
    return info;
}

}  // namespace

/// A tensor with its memory on both sides.
struct Buffer {
    TensorInfo info;
    PinnedMemory host;
    DeviceMemory device;

    std::size_t bytes() const { return info.count * sizeof(float); }
};

struct Engine::State {
    // Destroyed from the last to the first: what uses something comes behind it.
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    std::vector<TensorInfo> input_infos, output_infos;
    std::vector<std::unique_ptr<Buffer>> inputs, outputs;
    Stream stream;
    Event start, end, done;
    GraphExec graph;
    std::int64_t memory_bytes = 0;
    int predictions = 0;

    ~State() {
        if (stream) cudaStreamSynchronize(stream.get());
    }

    void hold(const char* name) {
        auto buffer = std::make_unique<Buffer>();
        buffer->info = info_of(*engine, name);
        const std::size_t bytes = std::max<std::size_t>(buffer->bytes(), 1);
        cuda_check(cudaHostAlloc(buffer->host.place(), bytes, cudaHostAllocDefault), "cudaHostAlloc");
        cuda_check(cudaMalloc(buffer->device.place(), bytes), "cudaMalloc");
        if (!context->setTensorAddress(name, buffer->device.get())) {
            throw KitError(Exit::lowering, std::string("TensorRT takes no memory for ") + name);
        }
        const bool is_input = engine->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
        (is_input ? input_infos : output_infos).push_back(buffer->info);
        (is_input ? inputs : outputs).push_back(std::move(buffer));
    }

    void copy_in() {
        for (const auto& each : inputs) {
            const auto kind = cudaMemcpyHostToDevice;
            cuda_check(cudaMemcpyAsync(each->device.get(), each->host.get(), each->bytes(), kind, stream.get()),
                       "cudaMemcpyAsync");
        }
    }

    void copy_out() {
        for (const auto& each : outputs) {
            const auto kind = cudaMemcpyDeviceToHost;
            cuda_check(cudaMemcpyAsync(each->host.get(), each->device.get(), each->bytes(), kind, stream.get()),
                       "cudaMemcpyAsync");
        }
    }

    /// The first prediction of a context sets things up that a graph cannot hold; from the second one on there is a graph.
    void launch() {
        predictions += 1;
        if (predictions == 2) capture();
        if (graph) {
            cuda_check(cudaGraphLaunch(graph.get(), stream.get()), "cudaGraphLaunch");
        } else if (!context->enqueueV3(stream.get())) {
            throw KitError(Exit::lowering, "the engine could not be run", "read TensorRT's messages above");
        }
    }

    /// Some engines cannot be captured, such as those that wait for the GPU: they are launched kernel by kernel.
    void capture() {
        if (cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal) != cudaSuccess) return forget_error();
        const bool is_enqueued = context->enqueueV3(stream.get());
        Graph recorded;
        const bool is_recorded = cudaStreamEndCapture(stream.get(), recorded.place()) == cudaSuccess;
        if (!is_enqueued || !is_recorded || !recorded) return forget_error();
        if (cudaGraphInstantiate(graph.place(), recorded.get(), 0) != cudaSuccess) {
            *graph.place() = nullptr;
            forget_error();
        }
    }

    static void forget_error() {
        cudaGetLastError();
        std::fprintf(stderr, "the engine cannot be captured as a CUDA graph; it is launched kernel by kernel\n");
    }
};

Engine::Engine(const std::string& serialized) : state_(std::make_unique<State>()) {
    State& state = *state_;
    cuda_check(cudaSetDevice(0), "cudaSetDevice");
    const std::size_t before = used_bytes();
    state.runtime.reset(nvinfer1::createInferRuntime(logger()));
    if (!state.runtime) throw KitError(Exit::toolchain, "TensorRT makes no runtime", "read its messages above");
    state.engine.reset(state.runtime->deserializeCudaEngine(serialized.data(), serialized.size()));
    if (!state.engine) throw KitError(Exit::lowering, "the engine cannot be loaded", "read TensorRT's messages above");
    state.context.reset(state.engine->createExecutionContext());
    if (!state.context) {
        throw KitError(Exit::resources, "not enough GPU memory to run the engine", "close other programs");
    }
    for (int index = 0; index < state.engine->getNbIOTensors(); ++index) state.hold(state.engine->getIOTensorName(index));
    cuda_check(cudaStreamCreateWithFlags(state.stream.place(), cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (Event* event : {&state.start, &state.end, &state.done}) cuda_check(cudaEventCreate(event->place()), "cudaEventCreate");
    // Another program may have given memory back meanwhile.
    state.memory_bytes = std::max<std::int64_t>(0, static_cast<std::int64_t>(used_bytes()) - static_cast<std::int64_t>(before));
}

Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

const std::vector<TensorInfo>& Engine::inputs() const { return state_->input_infos; }
const std::vector<TensorInfo>& Engine::outputs() const { return state_->output_infos; }
float* Engine::input(std::size_t index) { return static_cast<float*>(state_->inputs.at(index)->host.get()); }

const float* Engine::output(std::size_t index) const {
    return static_cast<const float*>(state_->outputs.at(index)->host.get());
}

void Engine::submit() {
    state_->copy_in();
    state_->launch();
    state_->copy_out();
    cuda_check(cudaEventRecord(state_->done.get(), state_->stream.get()), "cudaEventRecord");
}

bool Engine::is_done() const {
    const cudaError_t status = cudaEventQuery(state_->done.get());
    if (status == cudaErrorNotReady) return false;
    cuda_check(status, "cudaEventQuery");
    return true;
}

void Engine::wait() { cuda_check(cudaStreamSynchronize(state_->stream.get()), "cudaStreamSynchronize"); }

Engine::Timing Engine::predict_timed() {
    State& state = *state_;
    state.copy_in();
    wait();
    const auto began = std::chrono::steady_clock::now();
    cuda_check(cudaEventRecord(state.start.get(), state.stream.get()), "cudaEventRecord");
    state.launch();
    cuda_check(cudaEventRecord(state.end.get(), state.stream.get()), "cudaEventRecord");
    cuda_check(cudaEventSynchronize(state.end.get()), "cudaEventSynchronize");
    const double wall_ms = milliseconds_since(began);
    float gpu_ms = 0;
    cuda_check(cudaEventElapsedTime(&gpu_ms, state.start.get(), state.end.get()), "cudaEventElapsedTime");
    state.copy_out();
    wait();
    return {wall_ms, gpu_ms};
}

bool Engine::uses_cuda_graph() const { return static_cast<bool>(state_->graph); }
std::int64_t Engine::memory_bytes() const { return state_->memory_bytes; }

std::string Engine::inspect() const {
    const std::unique_ptr<nvinfer1::IEngineInspector> inspector(state_->engine->createEngineInspector());
    const char* report =
        inspector ? inspector->getEngineInformation(nvinfer1::LayerInformationFormat::kJSON) : nullptr;
    if (report == nullptr) throw KitError(Exit::lowering, "the engine inspector gives no report");
    return report;
}

void Engine::check_outputs(const Golden& golden) const {
    const std::vector<TensorInfo>& found = outputs();
    for (std::size_t index = 0; index < std::max(found.size(), golden.expected.size()); ++index) {
        const std::string ours = index < found.size() ? found[index].name + " " + text_of(found[index].shape) : "none";
        std::string wanted = "none";
        if (index < golden.expected.size()) {
            wanted = golden.expected[index].first + " " + text_of(golden.expected[index].second.shape);
        }
        if (ours == wanted) continue;
        throw KitError(Exit::lowering, "output " + std::to_string(index) + " of the engine is " + ours + ", not " + wanted);
    }
}

Engine open_engine(const std::filesystem::path& folder, const EngineStore& store, const BuildOptions& options) {
    const Runtime runtime = find_runtime();
    const Kit kit = load_kit(folder);
    check_runtime(runtime, kit);
    if (const std::optional<std::string> stored = store.load(kit, runtime.identity())) {
        try {
            return Engine(*stored);
        } catch (const KitError& error) {
            if (error.code() != Exit::lowering) throw;
            std::fprintf(stderr, "the stored engine cannot be loaded any more; it is built again\n");
        }
    }
    const std::string built = build_engine(folder, kit, options);
    store.save(kit, runtime.identity(), built);
    return Engine(built);
}

}  // namespace vggt_edge
