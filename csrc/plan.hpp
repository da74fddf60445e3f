// What a retention policy asks of the engine. kvsim.backends.engine_kernels.Plan says the same, field by field.
#pragma once

#include "rates.hpp"

namespace kvsim {

enum Host : i64 { kNoHost = 0, kWriteThrough = 1, kOnEviction = 2, kSwap = 3 };

constexpr i64 kForever = i64{1} << 62;
constexpr i64 kAwaited = kForever + 1;  // held until a turn that waits already has been admitted

// Columns are by row; one that is missing: the mechanism is not used.
struct Plan {
  const i64* hold_ns = nullptr;
  const i64* next_use_ns = nullptr;
  i64 host = kNoHost;
  i64 host_blocks = 0;
  i64 load_ns = 0;
  const i64* pause_us = nullptr;
  const i64* recompute_us = nullptr;
  const i64* swap_us = nullptr;
};

}  // namespace kvsim
