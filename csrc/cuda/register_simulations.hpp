// Simulations as Python has them.
#pragma once

#include <pybind11/pybind11.h>

namespace kvsim::cuda {

void register_simulations(pybind11::module_& module);

}  // namespace kvsim::cuda
