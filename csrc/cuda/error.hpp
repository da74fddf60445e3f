// What a device cannot do, in one sentence.
#pragma once

#include <stdexcept>

namespace kvsim::cuda {

class DeviceError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace kvsim::cuda
