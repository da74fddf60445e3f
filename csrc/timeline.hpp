// Blocks in use over time, in bins.
#pragma once

#include "rates.hpp"

namespace kvsim {

// Of one replica; kvsim.backends.engine_kernels.Timeline says what the numbers mean.
struct Timeline {
  i64 bin_ns = 0;  // 0: not asked for
  i64 bins = 0;
  i64* level = nullptr;
  i64* partial = nullptr;

  // From that instant on, so many more blocks are in use.
  KVSIM_HD void note(i64 at_ns, i64 blocks) const {
    if (KVSIM_MOSTLY(bin_ns == 0) || blocks == 0) return;
    const i64 bin = at_ns / bin_ns;
    partial[bin] += blocks * ((bin + 1) * bin_ns - at_ns);
    if (bin + 1 < bins) level[bin + 1] += blocks;
  }
};

}  // namespace kvsim
