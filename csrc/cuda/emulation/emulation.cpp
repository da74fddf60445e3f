#include "emulation.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace emulation {

struct Stream {
  std::deque<std::function<void()>> work;
};

namespace {

struct Memory {
  std::size_t bytes;         // asked for
  char* pages;               // what is mapped: the memory ends where the last page, which nobody may touch, begins
  std::size_t mapped_bytes;  // without that page
  bool exposed = false;
};

// All that the card knows. Calls of several threads come one at a time.
struct Card {
  std::recursive_mutex mutex;
  std::size_t memory_bytes = std::size_t{1} << 30;
  bool driver = true, device = true;
  std::map<const char*, Memory> device_memory;
  std::map<const char*, std::size_t> pinned_memory;
  std::multimap<const char*, std::size_t> adopted_memory;
  Counts counts{};
  int inside = 0;  // kernels and copies under way
};

Card& card() {
  static Card* const card = new Card;
  return *card;
}

using Lock = std::lock_guard<std::recursive_mutex>;
thread_local cudaError_t last_error = cudaSuccess;

struct ThreadEnd {};

cudaError_t told(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

void protect(const Memory& memory, int protection) {
  if (memory.exposed || memory.mapped_bytes == 0) return;
  if (mprotect(memory.pages, memory.mapped_bytes, protection) != 0) std::abort();
}

// While it lives, device memory can be read and written.
class Inside {
 public:
  Inside() {
    if (card().inside++ > 0) return;
    for (const auto& [data, memory] : card().device_memory) protect(memory, PROT_READ | PROT_WRITE);
  }
  ~Inside() {
    if (--card().inside > 0) return;
    for (const auto& [data, memory] : card().device_memory) protect(memory, PROT_NONE);
  }
};

std::size_t size_of(const Memory& memory) { return memory.bytes; }
std::size_t size_of(std::size_t bytes) { return bytes; }

template <class Known>
bool within(const Known& all, const void* data, std::size_t bytes) {
  const char* begin = static_cast<const char*>(data);
  auto at = all.upper_bound(begin);
  if (at == all.begin()) return false;
  --at;
  return begin + bytes <= at->first + size_of(at->second);
}

bool on_device(const void* data, std::size_t bytes) {
  return within(card().device_memory, data, bytes) || within(card().adopted_memory, data, bytes);
}

void drain(Stream& stream) {
  while (!stream.work.empty()) {
    const std::function<void()> next = std::move(stream.work.front());
    stream.work.pop_front();
    next();
  }
}

}  // namespace

void launch(Stream* stream, unsigned blocks, unsigned threads, std::function<void()> body) {
  const Lock lock(card().mutex);
  if (blocks == 0 || blocks > 0x7fffffffU || threads == 0 || threads > 1024) {
    told(cudaErrorInvalidConfiguration);
    return;
  }
  stream->work.push_back([=] {
    const Inside inside;
    ++card().counts.kernels;
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = blocks; blockIdx.x-- > 0;) {
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {
        try {
          body();
        } catch (const ThreadEnd&) {
        }
      }
    }
  });
}

void end_thread() { throw ThreadEnd(); }

void pretend(std::size_t memory_bytes, bool driver, bool device) {
  const Lock lock(card().mutex);
  card().memory_bytes = memory_bytes;
  card().driver = driver;
  card().device = device;
  card().counts.most_device_bytes = card().counts.device_bytes;
}

Counts counts() {
  const Lock lock(card().mutex);
  return card().counts;
}

void expose(const void* data) {
  const Lock lock(card().mutex);
  if (!within(card().device_memory, data, 1)) return;
  Memory& memory = std::prev(card().device_memory.upper_bound(static_cast<const char*>(data)))->second;
  protect(memory, PROT_READ | PROT_WRITE);
  memory.exposed = true;
}

void adopt(const void* data, std::size_t bytes) {
  const Lock lock(card().mutex);
  card().adopted_memory.emplace(static_cast<const char*>(data), bytes);
}

void let_go(const void* data) {
  const Lock lock(card().mutex);
  const auto at = card().adopted_memory.find(static_cast<const char*>(data));
  if (at != card().adopted_memory.end()) card().adopted_memory.erase(at);
}

}  // namespace emulation

using emulation::card;
using emulation::Inside;
using emulation::Lock;
using emulation::told;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
  }
  return "unknown error";
}

cudaError_t cudaGetLastError() { return std::exchange(emulation::last_error, cudaSuccess); }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = card().driver ? 13000 : 0;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = card().driver && card().device ? 1 : 0;
  if (!card().driver) return told(cudaErrorInsufficientDriver);
  return told(card().device ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return told(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "host emulation, no GPU");
  properties->major = 7;
  properties->minor = 5;
  properties->totalGlobalMem = card().memory_bytes;
  properties->multiProcessorCount = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  int count = 0;
  return cudaGetDeviceCount(&count);
}

cudaError_t cudaSetDevice(int device) { return told(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* all) {
  const Lock lock(card().mutex);
  *all = card().memory_bytes;
  *free_bytes = card().memory_bytes - std::min(card().memory_bytes, card().counts.device_bytes);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** made, std::size_t bytes) {
  const Lock lock(card().mutex);
  *made = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (card().counts.device_bytes + bytes > card().memory_bytes) return told(cudaErrorMemoryAllocation);
  constexpr std::size_t kAlignment = 256;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t aligned = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t mapped = (aligned + page - 1) / page * page;
  void* pages = mmap(nullptr, mapped + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return told(cudaErrorMemoryAllocation);
  emulation::Memory memory{bytes, static_cast<char*>(pages), mapped};
  std::memset(memory.pages, 0xA5, mapped);
  if (mprotect(memory.pages + mapped, page, PROT_NONE) != 0) std::abort();
  char* data = memory.pages + mapped - aligned;
  if (card().inside == 0) emulation::protect(memory, PROT_NONE);
  card().device_memory.emplace(data, memory);
  card().counts.device_bytes += bytes;
  card().counts.allocations += 1;
  card().counts.most_device_bytes = std::max(card().counts.most_device_bytes, card().counts.device_bytes);
  *made = data;
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  const Lock lock(card().mutex);
  if (data == nullptr) return cudaSuccess;
  const auto at = card().device_memory.find(static_cast<char*>(data));
  if (at == card().device_memory.end()) return told(cudaErrorInvalidValue);
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  card().counts.device_bytes -= at->second.bytes;
  card().counts.allocations -= 1;
  munmap(at->second.pages, at->second.mapped_bytes + page);
  card().device_memory.erase(at);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** made, std::size_t bytes) {
  const Lock lock(card().mutex);
  *made = nullptr;
  if (bytes == 0) return cudaSuccess;
  *made = std::malloc(bytes);
  if (*made == nullptr) return told(cudaErrorMemoryAllocation);
  std::memset(*made, 0x5A, bytes);
  card().pinned_memory.emplace(static_cast<char*>(*made), bytes);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* data) {
  const Lock lock(card().mutex);
  if (data == nullptr) return cudaSuccess;
  if (card().pinned_memory.erase(static_cast<char*>(data)) == 0) return told(cudaErrorInvalidValue);
  std::free(data);
  return cudaSuccess;
}

// To the device from memory that is not page-locked: copied at once to where the card fetches it when it comes to that.
// From the device to such memory a card would make the host wait, which is not what such a call is for.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(card().mutex);
  if (bytes == 0) return cudaSuccess;
  const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
  const auto known = [&](const void* data, bool device) {
    return device ? emulation::on_device(data, bytes) : emulation::within(card().pinned_memory, data, bytes);
  };
  const bool pageable = !from_device && !known(from, false) && !known(from, true);
  if (!known(to, to_device) || !(known(from, from_device) || pageable)) return told(cudaErrorInvalidValue);
  std::vector<char> staged;
  if (pageable) staged.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  stream->work.push_back([=] {
    const Inside inside;
    ++card().counts.copies;
    std::memcpy(to, pageable ? staged.data() : from, bytes);
  });
  return cudaSuccess;
}

// From the device only: to it, a card may not be done when the call returns, and streams would not wait for it.
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const Lock lock(card().mutex);
  if (kind != cudaMemcpyDeviceToHost || emulation::on_device(to, bytes) || !emulation::on_device(from, bytes)) {
    return told(cudaErrorInvalidValue);
  }
  const Inside inside;
  ++card().counts.copies;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const Lock lock(card().mutex);
  if (bytes == 0) return cudaSuccess;
  if (!emulation::on_device(to, bytes)) return told(cudaErrorInvalidValue);
  stream->work.push_back([=] {
    const Inside inside;
    std::memset(to, value, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* made, unsigned) {
  *made = new emulation::Stream;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(card().mutex);
  emulation::drain(*stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(card().mutex);
  const bool default_stream = reinterpret_cast<std::uintptr_t>(stream) <= 2;  // has nothing to do here
  if (!default_stream) emulation::drain(*stream);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  const Lock lock(card().mutex);
  *attributes = {cudaMemoryTypeUnregistered, 0, nullptr, const_cast<void*>(data)};
  if (emulation::within(card().pinned_memory, data, 1)) attributes->type = cudaMemoryTypeHost;
  if (emulation::on_device(data, 1)) {
    *attributes = {cudaMemoryTypeDevice, 0, const_cast<void*>(data), nullptr};
  }
  return cudaSuccess;
}
