// What of the CUDA runtime kvsim uses, on the host: so that the very files that nvcc compiles for a card can be run and
// checked where there is none. It is for tests alone, and no part of the package.
//
// It is strict where a card would be wrong in silence: device memory is out of the host's reach except while a kernel
// or a copy runs, ends at a page that nobody may touch, and holds garbage at first; what a stream is given to do is
// done as late as possible, when somebody waits for it; blocks run last to first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#define KVSIM_CUDA_EMULATION 1

#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __launch_bounds__(...)

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3
};

struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void* devicePointer;
  void* hostPointer;
};
struct cudaDeviceProp {
  char name[256];
  int major;
  int minor;
  std::size_t totalGlobalMem;
  int multiProcessorCount;
};

namespace emulation {
struct Stream;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Runs the body for each thread of each block, in the order of the stream.
void launch(Stream* stream, unsigned blocks, unsigned threads, std::function<void()> body);

// Ends the thread of the kernel that calls it; the others go on.
[[noreturn]] void end_thread();
}  // namespace emulation

using cudaStream_t = emulation::Stream*;
constexpr unsigned cudaStreamNonBlocking = 1;

inline thread_local emulation::Dim3 threadIdx, blockIdx, blockDim, gridDim;

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* all);
cudaError_t cudaMalloc(void** made, std::size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaMallocHost(void** made, std::size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* made, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data);

template <class Value>
Value atomicAdd(Value* at, Value value) {
  const Value before = *at;
  *at += value;
  return before;
}
template <class Value>
Value atomicMin(Value* at, Value value) {
  const Value before = *at;
  if (value < before) *at = value;
  return before;
}
template <class Value>
Value atomicMax(Value* at, Value value) {
  const Value before = *at;
  if (value > before) *at = value;
  return before;
}
