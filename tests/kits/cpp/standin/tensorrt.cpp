#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <vector>

#include "standin.hpp"
#include "vggt_edge/files.hpp"
#include "vggt_edge/kit.hpp"

namespace standin {

using namespace vggt_edge;

/// What standin.json asks for, and the golden tensors beside it.
struct Script {
    Json json;
    Golden golden;
    std::string fails;
    std::vector<float> factors;
    std::string engine;
    std::string inspector;
    nvinfer1::ILogger* logger = nullptr;
};

Script& script() {
    static Script all = [] {
        const std::filesystem::path path = std::getenv("VGGT_EDGE_STANDIN");
        Script made;
        made.json = parse_json(read_file(path, 1 << 20));
        made.golden = load_golden(path.parent_path(), load_kit(path.parent_path()));
        made.fails = made.json.at("fails").text();
        for (const Json& factor : made.json.at("factors").list()) {
            made.factors.push_back(factor.is_null() ? NAN : static_cast<float>(factor.number()));
        }
        made.engine = "built by the stand-in";
        made.engine.resize(static_cast<std::size_t>(made.json.at("engine_bytes").whole()));
        made.inspector = json_text(Json::Table{{"Layers", made.json.at("layers")}});
        return made;
    }();
    return all;
}

bool fails(const std::string& call) { return script().fails == call; }

bool is_input(const std::string& name) { return script().golden.inputs.count(name) != 0; }

/// The tensors of the engine: inputs, then the outputs in order, or out of order where that has to fail.
std::vector<std::string> tensors() {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : script().golden.inputs) names.push_back(name);
    for (const auto& [name, tensor] : script().golden.expected) names.push_back(name);
    if (fails("order")) std::swap(names[1], names[2]);
    if (fails("missing output")) names.pop_back();
    return names;
}

const Tensor& tensor(const std::string& name) {
    if (is_input(name)) return script().golden.inputs.at(name);
    for (const auto& [each, values] : script().golden.expected) {
        if (each == name) return values;
    }
    std::abort();
}

class Memory : public nvinfer1::IHostMemory {
public:
    void* data() const noexcept override { return script().engine.data(); }
    std::size_t size() const noexcept override { return script().engine.size(); }
};

class Context : public nvinfer1::IExecutionContext {
public:
    std::map<std::string, void*> memory;
    std::size_t runs = 0;

    /// The golden outputs times a factor, only if the golden input has arrived on the GPU.
    void run() {
        const std::vector<float>& factors = script().factors;
        float factor = factors[std::min(runs++, factors.size() - 1)];
        for (const auto& [name, input] : script().golden.inputs) {
            if (std::memcmp(memory.at(name), input.values.data(), 4 * input.values.size()) != 0) factor = -7;
        }
        for (const std::string& name : tensors()) {
            if (is_input(name)) continue;
            auto* to = static_cast<float*>(memory.at(name));
            for (const float value : tensor(name).values) *to++ = factor * value;
        }
    }
};

class Parser : public nvonnxparser::IParser, public nvonnxparser::IParserError {
public:
    bool parseFromFile(const char* file, int) noexcept override { return !fails("parse") && std::filesystem::exists(file); }
    int getNbErrors() const noexcept override { return 1; }
    const nvonnxparser::IParserError* getError(int) const noexcept override { return this; }
    const char* desc() const override { return "no such operator"; }
    const char* nodeName() const override { return "frame/Gelu"; }
};

}  // namespace standin

using namespace standin;

std::int32_t getInferLibVersion() noexcept { return fails("version") ? 100200 : 100300; }
std::int32_t getInferLibMajorVersion() noexcept { return 10; }
std::int32_t getInferLibMinorVersion() noexcept { return fails("version") ? 2 : 3; }
std::int32_t getInferLibPatchVersion() noexcept { return 0; }
std::int32_t getInferLibBuildVersion() noexcept { return 26; }

namespace nvonnxparser {

IParser* createParser(nvinfer1::INetworkDefinition&, nvinfer1::ILogger&) noexcept { return new Parser; }

}  // namespace nvonnxparser

namespace nvinfer1 {

IBuilder* createInferBuilder(ILogger& logger) noexcept {
    script().logger = &logger;
    return fails("builder") ? nullptr : new IBuilder;
}

IRuntime* createInferRuntime(ILogger&) noexcept { return fails("runtime") ? nullptr : new IRuntime; }

INetworkDefinition* IBuilder::createNetworkV2(NetworkDefinitionCreationFlags flags) noexcept {
    return fails("network") || flags != 2 ? nullptr : new INetworkDefinition;
}

IBuilderConfig* IBuilder::createBuilderConfig() noexcept { return fails("config") ? nullptr : new IBuilderConfig; }
void IBuilderConfig::setProfilingVerbosity(ProfilingVerbosity) noexcept {}
void IBuilderConfig::setMemoryPoolLimit(MemoryPoolType, std::size_t) noexcept {}
void IBuilderConfig::setBuilderOptimizationLevel(std::int32_t) noexcept {}

IHostMemory* IBuilder::buildSerializedNetwork(INetworkDefinition&, IBuilderConfig&) noexcept {
    std::fprintf(stderr, "stand-in: an engine is built\n");
    const std::string says = script().json.at("says").text();
    if (!says.empty()) script().logger->log(ILogger::Severity::kERROR, says.c_str());
    return fails("build") ? nullptr : new Memory;
}

/// Whatever the stand-in did not build is native code of somebody else's.
ICudaEngine* IRuntime::deserializeCudaEngine(const void* blob, std::size_t size) noexcept {
    if (std::string(static_cast<const char*>(blob), size) != script().engine) {
        std::fprintf(stderr, "stand-in: a planted engine is loaded\n");
        std::abort();
    }
    return fails("deserialize") ? nullptr : new ICudaEngine;
}

std::int32_t ICudaEngine::getNbIOTensors() const noexcept { return static_cast<std::int32_t>(tensors().size()); }

const char* ICudaEngine::getIOTensorName(std::int32_t index) const noexcept {
    static std::vector<std::string> names;
    names = tensors();
    return names[static_cast<std::size_t>(index)].c_str();
}

Dims ICudaEngine::getTensorShape(const char* name) const noexcept {
    const Shape& shape = tensor(name).shape;
    Dims dims{static_cast<std::int32_t>(shape.size()), {}};
    std::copy(shape.begin(), shape.end(), dims.d);
    if (fails("dynamic")) dims.d[1] = -1;
    if (fails("huge")) dims.d[1] = std::int64_t{1} << 62;
    return dims;
}

DataType ICudaEngine::getTensorDataType(const char* name) const noexcept {
    return fails("type") && !is_input(name) ? DataType::kHALF : DataType::kFLOAT;
}

TensorIOMode ICudaEngine::getTensorIOMode(const char* name) const noexcept {
    return is_input(name) ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}

IExecutionContext* ICudaEngine::createExecutionContext() noexcept { return fails("context") ? nullptr : new Context; }
IEngineInspector* ICudaEngine::createEngineInspector() const noexcept { return new IEngineInspector; }

const char* IEngineInspector::getEngineInformation(LayerInformationFormat) const noexcept {
    return fails("inspect") ? nullptr : script().inspector.c_str();
}

bool IExecutionContext::setTensorAddress(const char* name, void* memory) noexcept {
    static_cast<Context*>(this)->memory[name] = memory;
    return !fails("address");
}

/// Fails at the first prediction, or where it is captured.
bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    if (fails("enqueue") || (fails("captured enqueue") && is_capturing(stream))) return false;
    enqueue(stream, [this] { static_cast<Context*>(this)->run(); });
    return true;
}

}  // namespace nvinfer1
