#include <pybind11/pybind11.h>

#include "devices.hpp"

namespace py = pybind11;

// Imports with no driver present; `devices()` then says why there is none.
PYBIND11_MODULE(_cuda, module) {
  module.doc() = "kvsim's CUDA module: which devices there are, and why none where there are none.";
  module.def("devices", [] {
    const kvsim::cuda::Devices devices = kvsim::cuda::query_devices();
    py::list found;
    for (const auto& device : devices.found) {
      py::dict entry;
      entry["name"] = device.name;
      entry["compute_capability"] = std::to_string(device.major) + "." + std::to_string(device.minor);
      entry["memory_bytes"] = device.memory_bytes;
      found.append(entry);
    }
    py::dict result;
    result["devices"] = found;
    result["reason"] = devices.reason;
    result["driver_version"] = devices.driver_version;
    result["runtime_version"] = devices.runtime_version;
    return result;
  });
}
