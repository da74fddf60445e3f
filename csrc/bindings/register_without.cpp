#include <algorithm>

#include "../without.hpp"
#include "arrays.hpp"

namespace kvsim::bindings {

namespace {

i64* room(const py::handle& column, py::ssize_t least, const char* name) {
  auto array = py::array_t<i64, py::array::c_style>::ensure(column);
  if (!array || array.ptr() != column.ptr() || array.size() < least) {
    throw std::invalid_argument(std::string(name) + " must be a contiguous int64 array with room for its values");
  }
  return array.mutable_data();
}

i64 run_without(const HeldTurns& held, const IntArray& offsets, const IntArray& entries, const IntArray& rollouts,
                const IntArray& positions, i64 base, const py::tuple& left) {
  if (left.size() != 9) throw std::invalid_argument("there are 9 columns of turns that are left");
  require_length(positions, rollouts.size(), "positions");
  const Turns& turns = held.turns;
  const bool joins = turns.waits_offsets != nullptr;
  const i64* starts = offsets.data();
  py::ssize_t rows = 0;
  i64 longest = 0;
  for (py::ssize_t removal = 0; removal < rollouts.size(); ++removal) {
    const i64 rollout = rollouts.data()[removal];
    if (rollout < 0 || rollout + 1 >= offsets.size()) throw std::invalid_argument("no such rollout");
    const i64 size = starts[rollout + 1] - starts[rollout];
    if (starts[rollout] < 0 || size < 1 || starts[rollout + 1] > entries.size() || positions.data()[removal] < 0 ||
        positions.data()[removal] >= size) {
      throw std::invalid_argument("no such turn");
    }
    rows += size - 1;
    longest = std::max(longest, size);
  }
  const Left columns{room(left[0], rows, "parent"),
                     room(left[1], rows, "after"),
                     room(left[2], rows, "kept"),
                     room(left[3], rows, "prompt"),
                     room(left[4], rows, "pause_ns"),
                     room(left[5], rows, "arrival_ns"),
                     room(left[6], rows, "source"),
                     joins ? room(left[7], rows + 1, "waits_offsets") : nullptr,
                     joins && py::len(left[8]) > 0 ? room(left[8], 1, "waits_rows") : nullptr};
  const Paths paths{starts, entries.data()};
  const Removals removals{static_cast<i64>(rollouts.size()), rollouts.data(), positions.data()};
  py::gil_scoped_release release;
  std::vector<i64> local(turns.rows, 0), shifts(longest);
  return without(turns, paths, removals, base, local.data(), shifts.data(), columns);
}

}  // namespace

void register_without(py::module_& module) {
  module.def("without", &run_without, py::arg("turns"), py::arg("offsets"), py::arg("entries"), py::arg("rollouts"),
             py::arg("positions"), py::arg("base"), py::arg("left"),
             "Rollouts with one turn left out, into `left`; see kvsim.backends.without_kernels.");
}

}  // namespace kvsim::bindings
