// Arrays on the device that come from and go to others: torch, CuPy and whoever else speaks DLPack or
// __cuda_array_interface__.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "../rates.hpp"

namespace kvsim::cuda {

enum class Kind { kInt64, kFloat64, kInt8 };

template <class Value>
constexpr Kind kind_of();
template <>
constexpr Kind kind_of<i64>() {
  return Kind::kInt64;
}
template <>
constexpr Kind kind_of<double>() {
  return Kind::kFloat64;
}
template <>
constexpr Kind kind_of<std::int8_t>() {
  return Kind::kInt8;
}

inline std::size_t bytes_of(Kind kind) { return kind == Kind::kInt8 ? 1 : 8; }

// One dimension; alive as long as one of its copies is.
struct Array {
  std::shared_ptr<void> owner;
  void* data = nullptr;
  Kind kind = Kind::kInt64;
  i64 length = 0;
  int device = 0;
  i64 stride = 1;

  template <class Value>
  Value* as() const {
    return static_cast<Value*>(data);
  }
  // From its first value to its last.
  std::size_t bytes() const {
    return length == 0 ? 0 : (static_cast<std::size_t>((length - 1) * stride) + 1) * bytes_of(kind);
  }
  // One column of a table that is kept row by row.
  Array column(i64 number, i64 columns) const {
    char* const first = static_cast<char*>(data) + static_cast<std::size_t>(number) * bytes_of(kind);
    return {owner, data == nullptr ? nullptr : first, kind, length / columns, device, columns};
  }
};

// A new array on the current device. Throws DeviceError.
Array new_array(Kind kind, i64 length);

template <class Value>
Array new_array(i64 length) {
  return new_array(kind_of<Value>(), length);
}

// Copies from the current device, done when it returns. What streams are still to write there, it does not wait for.
void copy_to_host(void* to, const void* from, std::size_t bytes);

// The device that memory is on, -1 where no kernel can reach it.
int device_of(const void* data);
// Waits until what that stream has been given to do is done: 1 is the legacy default stream, 2 that of the thread.
void wait_for_stream(std::uintptr_t stream);
// What others wait for before they hand over an array.
std::uintptr_t import_stream();

// Makes a device the current one while it lives.
class OnDevice {
 public:
  explicit OnDevice(int device);
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice();

 private:
  int before_ = 0;
};

}  // namespace kvsim::cuda
