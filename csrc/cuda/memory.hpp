// Memory of the device and of the host beside it, and streams, as objects that clean up.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "launch.hpp"

namespace kvsim::cuda {

// Room that grows, never shrinks, and forgets what was in it when it grows.
template <cudaError_t (*kAllocate)(void**, std::size_t), cudaError_t (*kFree)(void*)>
class Room {
 public:
  Room() = default;
  Room(Room&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Room& operator=(Room&&) = delete;
  ~Room() { kFree(data_); }

  std::byte* room_for(std::size_t bytes) {
    if (bytes <= bytes_) return data_;
    check(kFree(std::exchange(data_, nullptr)), "memory for the device cannot be given back");
    bytes_ = 0;
    void* made = nullptr;
    check(kAllocate(&made, bytes), "memory for the device cannot be had");
    data_ = static_cast<std::byte*>(made);
    bytes_ = bytes;
    return data_;
  }
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

using DeviceRoom = Room<cudaMalloc, cudaFree>;
// Page-locked host memory, from and to which copies run beside kernels.
using PinnedRoom = Room<cudaMallocHost, cudaFreeHost>;

// Work in order; streams run side by side.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream cannot be had"); }
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&&) = delete;
  ~Stream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  operator cudaStream_t() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "the device failed"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// Arrays one after the other in one room, each where a card likes to read from.
class Layout {
 public:
  template <class Value>
  std::size_t add(i64 count) {
    const std::size_t at = bytes_;
    bytes_ += (static_cast<std::size_t>(count) * sizeof(Value) + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  std::size_t bytes() const { return bytes_; }

  static constexpr std::size_t kAlignment = 256;

 private:
  std::size_t bytes_ = 0;
};

// Things of a device that are kept between calls, a few at most. A shelf is never destroyed: the driver may be gone
// before static objects are.
template <class Thing>
class Shelf {
 public:
  // One for the current device: from the shelf, or a new one.
  std::unique_ptr<Thing> take() {
    const int device = current_device();
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = std::find_if(idle_.begin(), idle_.end(), [&](auto& one) { return one.first == device; });
    if (known == idle_.end()) return std::make_unique<Thing>();
    std::unique_ptr<Thing> taken = std::move(known->second);
    idle_.erase(known);
    return taken;
  }
  void put_back(std::unique_ptr<Thing> thing) {
    const int device = current_device();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.size() < kMostIdle) idle_.emplace_back(device, std::move(thing));
  }
  void clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.clear();
  }

 private:
  static constexpr std::size_t kMostIdle = 2;

  static int current_device() {
    int device = 0;
    check(cudaGetDevice(&device), "no CUDA device answers");
    return device;
  }

  std::mutex mutex_;
  std::vector<std::pair<int, std::unique_ptr<Thing>>> idle_;
};

}  // namespace kvsim::cuda
