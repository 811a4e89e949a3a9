#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "standin.hpp"

using Work = std::vector<std::function<void()>>;

struct CUgraph_st {
    Work work;
};
struct CUgraphExec_st {
    Work work;
};
struct CUstream_st {
    Work work;
    CUgraph_st* captured = nullptr;
};
struct CUevent_st {
    CUstream_st* stream = nullptr;
    int asked = 0;
};

namespace standin {

void enqueue(cudaStream_t stream, std::function<void()> work) {
    (stream->captured != nullptr ? stream->captured->work : stream->work).push_back(std::move(work));
}

bool is_capturing(cudaStream_t stream) { return stream->captured != nullptr; }

}  // namespace standin

namespace {

cudaError_t out_of_memory_or(void** memory, std::size_t size, const char* call) {
    if (standin::fails(call)) return cudaErrorMemoryAllocation;
    *memory = std::malloc(size);
    std::memset(*memory, 0x7f, size);
    return cudaSuccess;
}

}  // namespace

cudaError_t cudaSetDevice(int) { return standin::fails("cudaSetDevice") ? cudaErrorNoDevice : cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 8 : 7;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *free = *total = 1 << 30;
    return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t) { return "as the stand-in was told"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaMalloc(void** memory, std::size_t size) { return out_of_memory_or(memory, size, "cudaMalloc"); }
cudaError_t cudaHostAlloc(void** memory, std::size_t size, unsigned) { return out_of_memory_or(memory, size, "cudaHostAlloc"); }

cudaError_t cudaFree(void* memory) {
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind, cudaStream_t stream) {
    standin::enqueue(stream, [=] { std::memcpy(to, from, size); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = new CUstream_st;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    for (const auto& each : std::exchange(stream->work, {})) each();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (standin::fails("cudaStreamBeginCapture")) return cudaErrorStreamCaptureUnsupported;
    stream->captured = new CUgraph_st;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    *graph = std::exchange(stream->captured, nullptr);
    if (!standin::fails("cudaStreamEndCapture")) return cudaSuccess;
    delete std::exchange(*graph, nullptr);
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->stream = stream;
    event->asked = 0;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) { return cudaStreamSynchronize(event->stream); }

/// Not ready when asked for the first time, done when asked again.
cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (event->stream == nullptr || event->stream->work.empty()) return cudaSuccess;
    if (event->asked++ == 0) return cudaErrorNotReady;
    return cudaStreamSynchronize(event->stream);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    *milliseconds = 1;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
    if (standin::fails("cudaGraphInstantiate")) return cudaErrorStreamCaptureUnsupported;
    *exec = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    for (const auto& each : exec->work) standin::enqueue(stream, each);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
