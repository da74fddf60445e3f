// What CUDA devices there are, or why there are none.
#pragma once

#include <string>
#include <vector>

namespace kvsim::cuda {

struct Device {
  std::string name;
  int major = 0;
  int minor = 0;
  std::size_t memory_bytes = 0;
};

struct Devices {
  std::vector<Device> found;
  std::string reason;  // why `found` is empty, in CUDA's words
  int driver_version = 0;
  int runtime_version = 0;
};

Devices query_devices();

}  // namespace kvsim::cuda
