// Kernels and their launch. The same file compiles for a card and, with emulation/ before CUDA's own headers, for the
// host, where a grid is a loop.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "../rates.hpp"
#include "error.hpp"

namespace kvsim::cuda {

inline void check(cudaError_t error, const char* problem) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next kernel would seem to have failed
  throw DeviceError(std::string(problem) + ": " + cudaGetErrorString(error));
}

constexpr unsigned kThreads = 128;  // a block

// The thread's number in the grid.
__device__ inline i64 thread_number() { return static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; }

// Runs the kernel in so many blocks.
template <class... Parameters, class... Arguments>
void launch_blocks(void (*kernel)(Parameters...), i64 count, unsigned threads, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(count);
#if defined(__CUDACC__)
  kernel<<<blocks, threads, 0, stream>>>(static_cast<Parameters>(arguments)...);
#else
  emulation::launch(stream, blocks, threads, [=] { kernel(static_cast<Parameters>(arguments)...); });
#endif
  check(cudaGetLastError(), "a kernel cannot be started");
}

// Runs the kernel in at least so many threads, in whole blocks.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), i64 threads, cudaStream_t stream, const Arguments&... arguments) {
  launch_blocks(kernel, (threads + kThreads - 1) / kThreads, kThreads, stream, arguments...);
}

}  // namespace kvsim::cuda
