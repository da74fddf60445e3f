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

// Tokens in blocks. Nearly all sizes are powers of two, for which nothing need be divided.
class BlockSize {
 public:
  KVSIM_FN explicit BlockSize(i64 tokens) : tokens_(tokens) {
    if ((tokens & (tokens - 1)) != 0) return;
    for (shift_ = 0; (i64{1} << shift_) < tokens;) ++shift_;
  }

  KVSIM_FN i64 tokens() const { return tokens_; }
  KVSIM_FN i64 tokens_in(i64 blocks) const { return blocks * tokens_; }
  KVSIM_FN i64 filled_by(i64 tokens) const { return shift_ >= 0 ? tokens >> shift_ : tokens / tokens_; }
  KVSIM_FN i64 for_tokens(i64 tokens) const { return filled_by(tokens + tokens_ - 1); }
  KVSIM_FN i64 left_over(i64 tokens) const { return shift_ >= 0 ? tokens & (tokens_ - 1) : tokens % tokens_; }

 private:
  i64 tokens_;
  i64 shift_ = -1;  // its logarithm, if it is a power of two
};

struct Settings : EngineLimits {
  Vector<i64> windows = {0};  // by KV group: tokens of its sliding window, 0 full attention

  KVSIM_FN bool one_full_group() const { return windows.size() == 1 && windows.front() == 0; }
};

}  // namespace kvsim
