#include "../run_sums.hpp"
#include "arrays.hpp"
#include "engine_inputs.hpp"

namespace kvsim::bindings {

namespace {

// The columns of kvsim.backends.engine_kernels.Served that are added up, kept alive.
struct HeldServedTurns {
  HeldArrays arrays;
  ServedTurns columns;

  HeldServedTurns(const py::handle& given, i64 rows) : arrays(given) {
#define KVSIM_COLUMN(name) columns.name = arrays.take(#name, rows)
    KVSIM_COLUMN(release_ns);
    KVSIM_COLUMN(scheduled_ns);
    KVSIM_COLUMN(first_token_ns);
    KVSIM_COLUMN(finish_ns);
    KVSIM_COLUMN(recompute_ns);
    KVSIM_COLUMN(gpu_ns);
    KVSIM_COLUMN(held_block_ns);
    KVSIM_COLUMN(cached_tokens);
    KVSIM_COLUMN(loaded_tokens);
    KVSIM_COLUMN(hittable_tokens);
    KVSIM_COLUMN(replica);
#undef KVSIM_COLUMN
  }
};

// Sums as one row a field.
template <class Sums>
py::array_t<i64> told(const std::vector<Sums>& sums) {
  py::ssize_t fields = 0;
  Sums{}.each([&](i64) { ++fields; });
  const py::ssize_t count = static_cast<py::ssize_t>(sums.size());
  py::array_t<i64> columns({fields, count});
  i64* out = columns.mutable_data();
  for (py::ssize_t number = 0; number < count; ++number) {
    i64* at = out + number;
    sums[static_cast<std::size_t>(number)].each([&](i64 value) {
      *at = value;
      at += count;
    });
  }
  return columns;
}

py::tuple add_up(const HeldTurns& held, const py::handle& given_served, i64 replicas, i64 block_size,
                 const std::vector<i64>& windows, const std::vector<double>& shares) {
  if (!std::is_sorted(shares.begin(), shares.end()) ||
      !std::all_of(shares.begin(), shares.end(), [](double share) { return share >= 0 && share <= 1; })) {
    throw std::invalid_argument("shares must rise from 0 to 1");
  }
  const Turns& turns = held.turns;
  const HeldServedTurns served(given_served, turns.rows);
  std::vector<TrajectorySums> by_trajectory(static_cast<std::size_t>(turns.trajectories));
  std::vector<ReplicaSums> by_replica(static_cast<std::size_t>(replicas));
  std::optional<WholeSums> whole;
  const py::ssize_t spreads = shares.empty() ? 0 : kSpreads;
  py::array_t<i64> spread({spreads, static_cast<py::ssize_t>(3 + 2 * shares.size())});
  i64* spread_out = spread.mutable_data();
  {
    py::gil_scoped_release unlocked;
    run_sums(turns, served.columns, block_size, windows, by_trajectory, by_replica);
    whole.emplace(by_trajectory);
    std::fill_n(spread_out, spread.size(), 0);
    if (spreads != 0) run_spreads(turns, served.columns, by_trajectory, shares, spread_out);
  }
  return py::make_tuple(told(by_trajectory), told(by_replica), py::make_tuple(whole->high, whole->low), spread);
}

}  // namespace

void register_run_sums(py::module_& module) {
  module.def("run_sums", &add_up, py::arg("turns"), py::arg("served"), py::arg("replicas"), py::arg("block_size"),
             py::arg("windows"), py::arg("shares"), "What kvsim.backends.run_sums.run_sums tells.");
}

}  // namespace kvsim::bindings
