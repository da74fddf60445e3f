#include <memory>

#include "../estimate.hpp"
#include "arrays.hpp"

namespace kvsim::bindings {

namespace {

// Finish times of all rows: reused between calls, since touching fresh pages costs more than the pricing.
i64* finish_scratch(i64 rows) {
  thread_local std::unique_ptr<i64[]> buffer;
  thread_local i64 capacity = 0;
  if (rows > capacity) {
    buffer.reset(new i64[rows]);
    capacity = rows;
  }
  return buffer.get();
}

using Kernel = void (*)(const Rates&, const i64*, const Turns&, i64*, Totals*, double*, const PriceColumns&);

template <bool kWithTurns>
Kernel kernel_for(i64 survival) {
  switch (survival) {
    case kNever:
      return &estimate<kNever, kWithTurns>;
    case kAlways:
      return &estimate<kAlways, kWithTurns>;
    case kTtl:
      return &estimate<kTtl, kWithTurns>;
    case kLru:
      return &estimate<kLru, kWithTurns>;
    case kLogged:
      return &estimate<kLogged, kWithTurns>;
    case kNoCache:
      return &estimate<kNoCache, kWithTurns>;
  }
  throw std::invalid_argument("unknown survival " + std::to_string(survival));
}

py::tuple run_estimate(const Rates& rates, const IntArray& step, const HeldTurns& held, bool with_turns) {
  static_assert(sizeof(Totals) == 8 * sizeof(i64), "Totals is a row of eight integers");
  require_length(step, rates.chunk + 1, "step");
  const Turns& turns = held.turns;
  py::array_t<i64> totals({static_cast<py::ssize_t>(turns.trajectories), py::ssize_t{8}});
  py::array_t<double> held_block_ns(turns.trajectories);
  PriceColumns out;
  py::tuple columns = py::tuple();
  if (with_turns) {
    auto column = [&] { return py::array_t<i64>(turns.rows); };
    py::array_t<i64> release = column(), fresh = column(), recompute = column(), decode = column(), cached = column(),
                     recomputed = column();
    py::array_t<double> blocks(turns.rows);
    py::array_t<std::int8_t> status(turns.rows);
    out = {release.mutable_data(), fresh.mutable_data(),      recompute.mutable_data(), decode.mutable_data(),
           cached.mutable_data(),  recomputed.mutable_data(), blocks.mutable_data(),    status.mutable_data()};
    columns = py::make_tuple(release, fresh, recompute, decode, cached, recomputed, blocks, status);
  }
  const Kernel kernel = with_turns ? kernel_for<true>(rates.survival) : kernel_for<false>(rates.survival);
  auto* total_rows = reinterpret_cast<Totals*>(totals.mutable_data());
  double* held_data = held_block_ns.mutable_data();
  {
    py::gil_scoped_release release;
    kernel(rates, step.data(), turns, finish_scratch(turns.rows), total_rows, held_data, out);
  }
  return py::make_tuple(totals, held_block_ns, columns);
}

}  // namespace

void register_estimate(py::module_& module) {
  module.def("estimate", &run_estimate, py::arg("rates"), py::arg("step"), py::arg("turns"), py::arg("with_turns"),
             "Totals (trajectories, 8), held block nanoseconds (trajectories,), and the columns of turns or ().");
}

}  // namespace kvsim::bindings
