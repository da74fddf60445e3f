// Arrays that cross the border: checked for type and length once, kept alive by whoever holds the view.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../turns.hpp"

namespace kvsim::bindings {

namespace py = pybind11;

using IntArray = py::array_t<i64, py::array::c_style>;

inline void require_length(const IntArray& array, py::ssize_t length, const char* name) {
  if (array.ndim() != 1 || array.shape(0) != length) {
    throw std::invalid_argument(std::string(name) + " must have shape (" + std::to_string(length) + ",)");
  }
}

// The columns of a batch, with the arrays they live in.
struct HeldTurns {
  Turns turns;
  std::vector<IntArray> arrays;
};

// Types are each module's own: kvsim._cuda has some of them too.
void register_rates(py::module_& module);
void register_turns(py::module_& module);
void register_estimate(py::module_& module);
void register_scheduler(py::module_& module);
void register_simulate(py::module_& module);
void register_without(py::module_& module);

}  // namespace kvsim::bindings
