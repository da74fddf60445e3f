// An engine's arguments that its scheduler and its pool obey.
#pragma once

#include "containers.hpp"
#include "rates.hpp"

namespace kvsim {

enum Retention : i64 { kNoCaching = 0, kDrop = 1, kLruRetention = 2 };

// kvsim.backends.engine_kernels.Settings says the same, field by field.
struct EngineLimits {
  i64 block_size = 0;
  i64 num_gpu_blocks = 0;  // the null block among them
  i64 max_num_batched_tokens = 0;
  i64 max_num_seqs = 0;
  i64 long_prefill_token_threshold = 0;
  i64 watermark_blocks = 0;
  i64 scheduler_reserve_full_isl = 1;
  i64 enable_chunked_prefill = 1;
  i64 priority = 0;
  i64 retention = kLruRetention;
  i64 async_scheduling = 0;  // 1: a step is scheduled while the one before it runs
};

struct Settings : EngineLimits {
  Vector<i64> windows = {0};  // by KV group: tokens of its sliding window, 0 full attention

  KVSIM_FN bool one_full_group() const { return windows.size() == 1 && windows.front() == 0; }
};

}  // namespace kvsim
