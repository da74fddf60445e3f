// The engine's inputs: the named tuples of kvsim/backends/engine_kernels.py, read field by field.
#pragma once

#include "../simulate.hpp"
#include "arrays.hpp"

namespace kvsim::bindings {

inline Settings settings_from(const py::handle& given) {
  Settings settings;
#define KVSIM_FIELD(name) settings.name = given.attr(#name).cast<i64>()
  KVSIM_FIELD(block_size);
  KVSIM_FIELD(num_gpu_blocks);
  KVSIM_FIELD(max_num_batched_tokens);
  KVSIM_FIELD(max_num_seqs);
  KVSIM_FIELD(long_prefill_token_threshold);
  KVSIM_FIELD(watermark_blocks);
  KVSIM_FIELD(scheduler_reserve_full_isl);
  KVSIM_FIELD(enable_chunked_prefill);
  KVSIM_FIELD(priority);
  KVSIM_FIELD(retention);
  KVSIM_FIELD(async_scheduling);
#undef KVSIM_FIELD
  const IntArray windows = given.attr("windows").cast<IntArray>();
  settings.windows.assign(windows.data(), windows.data() + windows.size());
  return settings;
}

// Arrays given as attributes of one object, checked and kept alive.
class HeldArrays {
 public:
  explicit HeldArrays(const py::handle& given) : given_(given) {}

  const i64* take(const char* name, py::ssize_t length) {
    const IntArray array = given_.attr(name).cast<IntArray>();
    if (length >= 0) require_length(array, length, name);
    arrays_.push_back(array);
    return array.data();
  }
  py::ssize_t length_of(const char* name) const { return py::len(given_.attr(name)); }

 private:
  py::handle given_;
  std::vector<IntArray> arrays_;
};

struct HeldContexts {
  HeldArrays arrays;
  Contexts columns;
  i64 keys;  // of one KV group

  explicit HeldContexts(const py::handle& given) : arrays(given), keys(given.attr("keys").cast<i64>()) {
    columns.rows = arrays.length_of("prompt");
#define KVSIM_COLUMN(name) columns.name = arrays.take(#name, columns.rows)
    KVSIM_COLUMN(prompt);
    KVSIM_COLUMN(output);
    KVSIM_COLUMN(priority);
    KVSIM_COLUMN(above);
    KVSIM_COLUMN(own_from);
    KVSIM_COLUMN(first_key);
    KVSIM_COLUMN(prefix_key);
    KVSIM_COLUMN(hittable);
    KVSIM_COLUMN(continues);
#undef KVSIM_COLUMN
  }
};

struct HeldPlan {
  HeldArrays arrays;
  Plan plan;

  HeldPlan(const py::handle& given, i64 rows) : arrays(given) {
    plan.host = given.attr("host").cast<i64>();
    plan.host_blocks = given.attr("host_blocks").cast<i64>();
    plan.load_ns = given.attr("load_ns").cast<i64>();
#define KVSIM_COLUMN(name) plan.name = arrays.length_of(#name) == 0 ? nullptr : arrays.take(#name, rows)
    KVSIM_COLUMN(hold_ns);
    KVSIM_COLUMN(next_use_ns);
    KVSIM_COLUMN(pause_us);
    KVSIM_COLUMN(recompute_us);
    KVSIM_COLUMN(swap_us);
#undef KVSIM_COLUMN
  }
};

struct HeldLaw {
  HeldArrays own, full, windowed;
  StepLaw law;

  HeldLaw(const py::handle& given, const Settings& settings)
      : own(given), full(given.attr("full")), windowed(given.attr("windowed")) {
    law.fraction_bits = given.attr("fraction_bits").cast<i64>();
    law.window = given.attr("window").cast<i64>();
    law.tile_keys = given.attr("tile_keys").cast<i64>();
    law.step = own.take("step", settings.max_num_batched_tokens + 1);
    law.sequences = own.take("sequences", settings.max_num_seqs + 1);
    law.full = group(given.attr("full"), full, settings);
    law.windowed = group(given.attr("windowed"), windowed, settings);
  }

 private:
  static GroupLaw group(const py::handle& given, HeldArrays& arrays, const Settings& settings) {
    return {given.attr("pair").cast<i64>(), given.attr("context").cast<i64>(),
            arrays.take("decode", settings.max_num_seqs + 1), arrays.take("mixed", settings.max_num_seqs + 1)};
  }
};

struct HeldWorkload {
  HeldArrays arrays;
  Workload columns;

  HeldWorkload(const py::handle& given, i64 rows) : arrays(given) {
    columns.trajectories = arrays.length_of("start_ns");
    columns.start_ns = arrays.take("start_ns", columns.trajectories);
    columns.refill = given.attr("refill").cast<i64>();
    columns.roots_start = arrays.take("roots_start", columns.trajectories + 1);
    columns.roots = arrays.take("roots", columns.roots_start[columns.trajectories]);
    columns.dependants_start = arrays.take("dependants_start", rows + 1);
    columns.dependants = arrays.take("dependants", columns.dependants_start[rows]);
#define KVSIM_COLUMN(name) columns.name = arrays.take(#name, rows)
    KVSIM_COLUMN(trajectory);
    KVSIM_COLUMN(offset_ns);
    KVSIM_COLUMN(pause_ns);
    KVSIM_COLUMN(needs);
    KVSIM_COLUMN(refused);
#undef KVSIM_COLUMN
  }
};

inline Fleet fleet_from(const py::handle& given) {
  return {given.attr("replicas").cast<i64>(), given.attr("router").cast<i64>()};
}

// Arrays that are written to; that of the first replica, the others follow it.
struct HeldTimeline {
  py::array_t<i64, py::array::c_style> level, partial;
  Timeline timeline;

  HeldTimeline(const py::handle& given, i64 replicas)
      : level(given.attr("level").cast<decltype(level)>()), partial(given.attr("partial").cast<decltype(level)>()) {
    if (level.ndim() != 2 || level.shape(0) != replicas || partial.ndim() != 2 || partial.shape(0) != replicas ||
        partial.shape(1) != level.shape(1)) {
      throw std::invalid_argument("a timeline has shape (replicas, bins)");
    }
    timeline = {given.attr("bin_ns").cast<i64>(), level.shape(1), level.mutable_data(), partial.mutable_data()};
  }
};

// What a simulation writes: the columns of rows, as they stand before it, and the totals of replicas.
//
// Columns are one block, for huge pages, and whole pages and a cache line apart: see empty_columns in
// kvsim/backends/interface.py.
struct HeldServed {
  HeldServed(i64 rows, i64 replicas) : rows(rows), totals(static_cast<std::size_t>(replicas)) {
    py::ssize_t columns = 0;
    served.each_column([&](i64*&, i64) { ++columns; });
    const py::ssize_t apart = (static_cast<py::ssize_t>(rows) + 511) / 512 * 512 + 8;
    py::array_t<i64> block({columns, apart});
    i64* at = block.mutable_data();
    served.each_column([&](i64*& column, i64) {
      column = at;
      arrays.append(py::array_t<i64>(rows, column, block));
      at += apart;
    });
  }

  // As rows stand before a simulation; touches no Python.
  void clear() {
    served.each_column([&](i64*& column, i64 before) { std::fill_n(column, rows, before); });
  }

  py::tuple told_columns() const { return py::tuple(arrays); }
  py::list told_totals() const {
    py::list told;
    for (const ReplicaTotals& one : totals) {
      told.append(
          py::make_tuple(one.steps, one.busy_ns, one.end_ns, one.evicted_blocks, one.preemptions, one.peak_blocks));
    }
    return told;
  }

  i64 rows;
  py::list arrays;
  Served served;
  std::vector<ReplicaTotals> totals;
};

}  // namespace kvsim::bindings
