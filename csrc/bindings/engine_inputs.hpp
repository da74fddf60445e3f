// The engine's inputs: the named tuples of kvsim/backends/engine_kernels.py, read field by field.
#pragma once

#include "../scheduler.hpp"
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
#undef KVSIM_FIELD
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

  explicit HeldContexts(const py::handle& given) : arrays(given) {
    columns.rows = arrays.length_of("prompt");
#define KVSIM_COLUMN(name) columns.name = arrays.take(#name, columns.rows)
    KVSIM_COLUMN(prompt);
    KVSIM_COLUMN(output);
    KVSIM_COLUMN(priority);
    KVSIM_COLUMN(above);
    KVSIM_COLUMN(own_from);
    KVSIM_COLUMN(prefix_key);
    KVSIM_COLUMN(hittable);
#undef KVSIM_COLUMN
  }
};

}  // namespace kvsim::bindings
