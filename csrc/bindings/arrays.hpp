// Arrays that cross the border: checked for type and length once, kept alive by whoever holds the view.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../pieces.hpp"
#include "../turns.hpp"

namespace kvsim::bindings {

namespace py = pybind11;

using IntArray = py::array_t<i64, py::array::c_style>;

inline void require_length(const IntArray& array, py::ssize_t length, const char* name) {
  if (array.ndim() != 1 || array.shape(0) != length) {
    throw std::invalid_argument(std::string(name) + " must have shape (" + std::to_string(length) + ",)");
  }
}

// A batch as one piece, and cut into pieces, which is done when they are first asked for.
struct Cut {
  Pieces whole;
  Pieces pieces;
  std::once_flag once;
};

// The columns of a batch, with the arrays they live in.
struct HeldTurns {
  Turns turns;
  std::vector<IntArray> arrays;
  std::shared_ptr<Cut> cut = std::make_shared<Cut>();
};

// Types are each module's own: kvsim._cuda has some of them too.
void register_rates(py::module_& module);
void register_turns(py::module_& module);
void register_estimate(py::module_& module);
void register_scheduler(py::module_& module);
void register_simulate(py::module_& module);
void register_run_sums(py::module_& module);
void register_without(py::module_& module);

}  // namespace kvsim::bindings
