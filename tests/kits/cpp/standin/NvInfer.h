// A stand-in for the part of TensorRT that the kit uses: names and signatures are those of NVIDIA's header, the rest is
// ours. It "builds" an engine whose predictions are the golden outputs, changed as standin.json says; see standin.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#define NV_TENSORRT_MAJOR 10

extern "C" std::int32_t getInferLibVersion() noexcept;
extern "C" std::int32_t getInferLibMajorVersion() noexcept;
extern "C" std::int32_t getInferLibMinorVersion() noexcept;
extern "C" std::int32_t getInferLibPatchVersion() noexcept;
extern "C" std::int32_t getInferLibBuildVersion() noexcept;

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class ProfilingVerbosity : std::int32_t { kLAYER_NAMES_ONLY = 0, kNONE = 1, kDETAILED = 2 };
enum class MemoryPoolType : std::int32_t { kWORKSPACE = 0 };
enum class LayerInformationFormat : std::int32_t { kONELINE = 0, kJSON = 1 };
enum class NetworkDefinitionCreationFlag : std::int32_t { kEXPLICIT_BATCH = 0, kSTRONGLY_TYPED = 1 };
using NetworkDefinitionCreationFlags = std::uint32_t;

struct Dims {
    std::int32_t nbDims;
    std::int64_t d[8];
};

class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual ~ILogger() = default;
    virtual void log(Severity severity, const AsciiChar* message) noexcept = 0;
};

class IHostMemory {
public:
    virtual ~IHostMemory() noexcept = default;
    virtual void* data() const noexcept = 0;
    virtual std::size_t size() const noexcept = 0;
};

class IEngineInspector {
public:
    virtual ~IEngineInspector() noexcept = default;
    const char* getEngineInformation(LayerInformationFormat format) const noexcept;
};

class IExecutionContext {
public:
    virtual ~IExecutionContext() noexcept = default;
    bool setTensorAddress(const char* name, void* memory) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() noexcept = default;
    std::int32_t getNbIOTensors() const noexcept;
    const char* getIOTensorName(std::int32_t index) const noexcept;
    Dims getTensorShape(const char* name) const noexcept;
    DataType getTensorDataType(const char* name) const noexcept;
    TensorIOMode getTensorIOMode(const char* name) const noexcept;
    IExecutionContext* createExecutionContext() noexcept;
    IEngineInspector* createEngineInspector() const noexcept;
};

class IRuntime {
public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(const void* blob, std::size_t size) noexcept;
};

class INetworkDefinition {
public:
    virtual ~INetworkDefinition() noexcept = default;
};

class IBuilderConfig {
public:
    virtual ~IBuilderConfig() noexcept = default;
    void setProfilingVerbosity(ProfilingVerbosity verbosity) noexcept;
    void setMemoryPoolLimit(MemoryPoolType pool, std::size_t bytes) noexcept;
    void setBuilderOptimizationLevel(std::int32_t level) noexcept;
};

class IBuilder {
public:
    virtual ~IBuilder() noexcept = default;
    INetworkDefinition* createNetworkV2(NetworkDefinitionCreationFlags flags) noexcept;
    IBuilderConfig* createBuilderConfig() noexcept;
    IHostMemory* buildSerializedNetwork(INetworkDefinition& network, IBuilderConfig& config) noexcept;
};

IBuilder* createInferBuilder(ILogger& logger) noexcept;
IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
