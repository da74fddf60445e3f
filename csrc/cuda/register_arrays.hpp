// Arrays on the device as Python objects.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "array.hpp"

namespace kvsim::cuda {

// The array that a Python object stands for, without a copy: complete, one dimension, contiguous. Throws
// std::invalid_argument naming the column and the remedy.
Array taken(const pybind11::handle& object, Kind kind, const std::string& name);

void register_arrays(pybind11::module_& module);

}  // namespace kvsim::cuda
