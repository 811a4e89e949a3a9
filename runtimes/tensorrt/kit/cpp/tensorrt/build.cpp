#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>

#include "cuda.hpp"
#include "logger.hpp"
#include "vggt_edge/engine.hpp"

namespace vggt_edge {

namespace {

constexpr int oldest_version = 100300;  // 10.3.0
constexpr std::size_t most_kept_errors = 64;

std::mutex& errors_lock() {
    static std::mutex lock;
    return lock;
}

std::string lower(std::string text) {
    for (char& each : text) {
        if (each >= 'A' && each <= 'Z') each = static_cast<char>(each - 'A' + 'a');
    }
    return text;
}

/// From TensorRT 11 on every network is strongly typed.
nvinfer1::NetworkDefinitionCreationFlags network_flags() {
#if NV_TENSORRT_MAJOR >= 11
    return 0;
#else
    return 1U << static_cast<std::uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#endif
}

std::string parser_errors(const nvonnxparser::IParser& parser) {
    std::string lines;
    for (int index = 0; index < parser.getNbErrors(); ++index) {
        const nvonnxparser::IParserError* error = parser.getError(index);
        const char* node = error->nodeName();
        lines += std::string("\n    ") + (node != nullptr && *node != '\0' ? node : "graph") + ": " + error->desc();
    }
    return lines;
}

std::unique_ptr<nvinfer1::IBuilderConfig> config_of(nvinfer1::IBuilder& builder, const BuildOptions& options) {
    std::unique_ptr<nvinfer1::IBuilderConfig> config(builder.createBuilderConfig());
    if (!config) return config;
    config->setProfilingVerbosity(nvinfer1::ProfilingVerbosity::kDETAILED);
    if (options.workspace_mib) {
        const std::size_t bytes = static_cast<std::size_t>(*options.workspace_mib) << 20;
        config->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, bytes);
    }
    if (options.optimization_level) config->setBuilderOptimizationLevel(*options.optimization_level);
    return config;
}

KitError not_built() {
    if (logger().ran_out_of_memory()) {
        return KitError(Exit::resources, "not enough memory to build the engine",
                        "close other programs, or add swap for the build");
    }
    return KitError(Exit::lowering, "TensorRT could not build the engine", "read its messages above");
}

}  // namespace

Logger& logger() {
    static Logger the_logger;
    return the_logger;
}

void Logger::log(Severity severity, const nvinfer1::AsciiChar* message) noexcept {
    if (severity > Severity::kWARNING) return;
    std::fprintf(stderr, "TensorRT: %s\n", message);
    if (severity > Severity::kERROR) return;
    try {
        const std::lock_guard<std::mutex> held(errors_lock());
        if (errors_.size() < most_kept_errors) errors_.emplace_back(message);
    } catch (const std::exception&) {  // no memory for the message: it was printed
    }
}

bool Logger::ran_out_of_memory() const {
    const std::lock_guard<std::mutex> held(errors_lock());
    return std::any_of(errors_.begin(), errors_.end(), [](const std::string& error) {
        const std::string text = lower(error);
        for (const char* words : {"outofmemory", "out of memory", "insufficient memory", "bad_alloc", "memoryallocation"}) {
            if (text.find(words) != std::string::npos) return true;
        }
        return false;
    });
}

Runtime find_runtime() {
    const std::string version = std::to_string(getInferLibMajorVersion()) + "." +
                                std::to_string(getInferLibMinorVersion()) + "." +
                                std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
    if (getInferLibVersion() < oldest_version) {
        throw KitError(Exit::toolchain, "TensorRT " + version + " is too old", "use 10.3 or later (JetPack 6.1)");
    }
    cuda_check(cudaSetDevice(0), "cudaSetDevice");
    int major = 0, minor = 0;
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
    cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "cudaDeviceGetAttribute");
    return {version, std::to_string(major) + "." + std::to_string(minor)};
}

void check_runtime(const Runtime& runtime, const Kit& kit) {
    if (kit.needs.count("tensorrt_rtx") != 0) {
        throw KitError(Exit::toolchain, "this bundle is for TensorRT for RTX", "run build_and_verify.py, which knows it");
    }
    if (version_of(runtime.version) < needed_version(kit, "tensorrt")) {
        throw KitError(Exit::toolchain, "TensorRT " + runtime.version + " is too old for this bundle's precisions",
                       "use a version that is " + kit.needs.at("tensorrt"));
    }
}

std::string build_engine(const std::filesystem::path& folder, const Kit& kit, const BuildOptions& options) {
    const std::unique_ptr<nvinfer1::IBuilder> builder(nvinfer1::createInferBuilder(logger()));
    if (!builder) throw KitError(Exit::toolchain, "TensorRT makes no builder", "read its messages above");
    const std::unique_ptr<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(network_flags()));
    if (!network) throw not_built();
    // The parser owns weights of the network: it has to live until the engine is built.
    const std::unique_ptr<nvonnxparser::IParser> parser(nvonnxparser::createParser(*network, logger()));
    const std::filesystem::path model = folder / kit.model;
    if (!parser || !parser->parseFromFile(model.c_str(), static_cast<int>(nvinfer1::ILogger::Severity::kWARNING))) {
        throw KitError(Exit::lowering,
                       "TensorRT cannot read " + model.string() + (parser ? ":" + parser_errors(*parser) : ""));
    }
    const std::unique_ptr<nvinfer1::IBuilderConfig> config = config_of(*builder, options);
    const std::unique_ptr<nvinfer1::IHostMemory> engine(
        config ? builder->buildSerializedNetwork(*network, *config) : nullptr);
    if (!engine) throw not_built();
    return std::string(static_cast<const char*>(engine->data()), engine->size());
}

}  // namespace vggt_edge
