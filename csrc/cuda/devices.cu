#include <cuda_runtime.h>

#include "devices.hpp"

namespace kvsim::cuda {

Devices query_devices() {
  Devices devices;
  cudaDriverGetVersion(&devices.driver_version);
  cudaRuntimeGetVersion(&devices.runtime_version);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the next kernel would seem to have failed
    devices.reason = cudaGetErrorString(error);
    return devices;
  }
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    devices.found.push_back({properties.name, properties.major, properties.minor, properties.totalGlobalMem});
  }
  if (devices.found.empty()) devices.reason = "no CUDA device answers";
  return devices;
}

}  // namespace kvsim::cuda
