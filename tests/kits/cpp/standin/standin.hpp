#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>

namespace standin {

/// Whether this call is the one that has to fail, by `fails` in the standin.json that $VGGT_EDGE_STANDIN names.
bool fails(const std::string& call);

/// Work for a stream: done when somebody waits for it, or kept by a graph that is being captured.
void enqueue(cudaStream_t stream, std::function<void()> work);

bool is_capturing(cudaStream_t stream);

}  // namespace standin
