#include "array.hpp"
#include "memory.hpp"

namespace kvsim::cuda {

Array new_array(Kind kind, i64 length) {
  int device = 0;
  check(cudaGetDevice(&device), "no CUDA device answers");
  void* data = nullptr;
  if (length > 0) {
    check(cudaMalloc(&data, static_cast<std::size_t>(length) * bytes_of(kind)), "device memory cannot be had");
  }
  return {std::shared_ptr<void>(data, [](void* one) { cudaFree(one); }), data, kind, length, device};
}

void copy_to_host(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "an array cannot be copied to the host");
}

int device_of(const void* data) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, data) != cudaSuccess) {
    cudaGetLastError();
    return -1;
  }
  return attributes.devicePointer != nullptr ? attributes.device : -1;
}

void wait_for_stream(std::uintptr_t stream) {
  check(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream)), "an array's stream failed");
}

std::uintptr_t import_stream() {
  static const Stream* const stream = new Stream;  // never destroyed: the driver may be gone before static objects are
  return reinterpret_cast<std::uintptr_t>(static_cast<cudaStream_t>(*stream));
}

OnDevice::OnDevice(int device) {
  check(cudaGetDevice(&before_), "no CUDA device answers");
  if (device != before_) check(cudaSetDevice(device), "the array's device cannot be used");
}

OnDevice::~OnDevice() { cudaSetDevice(before_); }

}  // namespace kvsim::cuda
