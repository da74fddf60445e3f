// Memory of one simulation on a device: a stretch of bytes, handed out from its beginning on and in powers of two, so
// that what growing containers give back fits others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "rates.hpp"

#if defined(KVSIM_CUDA_EMULATION)
#include <cuda_runtime.h>
#endif

// For what is called in many places: inlined in all of them, it would take minutes to compile for a device.
#if defined(__CUDACC__)
#define KVSIM_APART __noinline__
#else
#define KVSIM_APART
#endif

namespace kvsim {

struct Arena {
  static constexpr int kSizes = 48;
  static constexpr std::size_t kLeastShift = 4;

  std::byte* begin;
  std::byte* next;
  std::byte* end;
  i64* exhausted;  // 1 is written there when there is no memory left
  void* unused[kSizes];

  KVSIM_FN void open(std::byte* memory, i64 bytes, i64* told) {
    begin = next = memory;
    end = memory + bytes;
    exhausted = told;
    for (void*& first : unused) first = nullptr;
  }
  KVSIM_FN void close() { begin = next = end = nullptr; }
  KVSIM_FN bool is_open() const { return begin != nullptr; }

  KVSIM_FN static int size_class(std::size_t bytes) {
    int shift = kLeastShift;
    while ((std::size_t{1} << shift) < bytes) ++shift;
    return shift;
  }

  // Never null: a thread that finds no memory says so and ends.
  KVSIM_FN KVSIM_APART void* take(std::size_t bytes) {
    const int shift = size_class(bytes);
    void* const known = unused[shift];
    if (known != nullptr) {
      unused[shift] = *static_cast<void**>(known);
      return known;
    }
    if (static_cast<std::size_t>(end - next) < (std::size_t{1} << shift)) give_up();
    std::byte* const taken = next;
    next += std::size_t{1} << shift;
    return taken;
  }
  KVSIM_FN KVSIM_APART void give_back(void* data, std::size_t bytes) {
    const int shift = size_class(bytes);
    *static_cast<void**>(data) = unused[shift];
    unused[shift] = data;
  }

 private:
  KVSIM_FN void give_up() {
    *exhausted = 1;
#if defined(__CUDA_ARCH__)
    asm volatile("exit;");
#elif defined(KVSIM_CUDA_EMULATION)
    emulation::end_thread();
#else
    std::abort();  // no host has one
#endif
  }
};

// That of the block's simulation.
KVSIM_FN inline Arena& arena() {
#if defined(__CUDA_ARCH__)
  __shared__ Arena own;
#else
  static thread_local Arena own{};
#endif
  return own;
}

// Outside simulations, as where a host prepares one, memory is the host's.
KVSIM_FN inline void* take_bytes(std::size_t bytes) {
#if !defined(__CUDA_ARCH__)
  if (!arena().is_open()) {
    void* const taken = std::malloc(bytes);
    if (taken == nullptr) std::abort();
    return taken;
  }
#endif
  return arena().take(bytes);
}

KVSIM_FN inline void give_bytes_back(void* data, std::size_t bytes) {
#if !defined(__CUDA_ARCH__)
  if (!arena().is_open()) {
    std::free(data);
    return;
  }
#endif
  arena().give_back(data, bytes);
}

}  // namespace kvsim
