#pragma once

#include <cstddef>
#include <string>

#include <cuda_runtime_api.h>

#include "vggt_edge/error.hpp"

namespace vggt_edge {

/// Throws where a call of the CUDA runtime failed. what: name of the call.
inline void cuda_check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    const Exit code = status == cudaErrorMemoryAllocation ? Exit::resources : Exit::toolchain;
    throw KitError(code, std::string(what) + " failed: " + cudaGetErrorString(status),
                   "close other programs that use the GPU");
}

/// Something of CUDA's that is released once.
template <class Handle, cudaError_t (*release)(Handle)>
class CudaHandle {
public:
    CudaHandle() = default;
    CudaHandle(const CudaHandle&) = delete;
    CudaHandle& operator=(const CudaHandle&) = delete;
    ~CudaHandle() {
        if (handle_ != nullptr) release(handle_);
    }

    /// Where a call of CUDA's writes the handle.
    Handle* place() { return &handle_; }
    Handle get() const { return handle_; }
    explicit operator bool() const { return handle_ != nullptr; }

private:
    Handle handle_ = nullptr;
};

using Stream = CudaHandle<cudaStream_t, cudaStreamDestroy>;
using Event = CudaHandle<cudaEvent_t, cudaEventDestroy>;
using Graph = CudaHandle<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = CudaHandle<cudaGraphExec_t, cudaGraphExecDestroy>;
using DeviceMemory = CudaHandle<void*, cudaFree>;
using PinnedMemory = CudaHandle<void*, cudaFreeHost>;

}  // namespace vggt_edge
