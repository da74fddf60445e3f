// Who evicted what, and when: a log that a pool keeps if asked to.
//
// kvsim/backends/eviction_log.py brings it into the form in which all backends agree.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "chains.hpp"
#include "containers.hpp"

// Away from the code that runs where no log is kept.
#define KVSIM_RARE __attribute__((noinline, cold))
// Away from a short way through a function, which then needs to save no registers.
#define KVSIM_LONG_WAY __attribute__((noinline))

namespace kvsim {

class EvictionLog {
 public:
  // Blocks [lo, hi) of a chain lost their keys in a KV group to a row that took them.
  struct Entry {
    i64 at_ns;
    i64 row;
    i32 chain;
    i32 group;
    i32 lo, hi;
  };

  // Who takes blocks from now on.
  KVSIM_FN KVSIM_RARE void taken_by(i64 row, i64 at_ns) {
    row_ = row;
    at_ns_ = at_ns;
  }

  KVSIM_FN KVSIM_RARE void note(i32 chain, i32 group, i32 lo, i32 hi) {
    if (!entries_.empty()) {
      Entry& last = entries_.back();
      if (last.lo == hi && last.chain == chain && last.group == group && last.row == row_ && last.at_ns == at_ns_) {
        last.lo = lo;  // prefixes are cut from their end
        return;
      }
    }
    entries_.push_back({at_ns_, row_, chain, group, lo, hi});
  }

  KVSIM_FN const Vector<Entry>& entries() const { return entries_; }

 private:
  i64 row_ = -1;
  i64 at_ns_ = 0;
  Vector<Entry> entries_;
};

// The keys of a chain's blocks, as Contexts numbers them.
class ChainKeys {
 public:
  ChainKeys(const Chains& chains, const Contexts& contexts, i64 block_size) : stretches_(chains.shapes.size()) {
    for (i64 row = 0; row < contexts.rows; ++row) {
      const i32 chain = chains.of_row[row];
      const i64 from = contexts.own_from[row];
      if (contexts.above[row] < 0 && from > 0) stretches_[chains.shapes[chain].above] = {{0, contexts.prefix_key[row]}};
      if ((contexts.prompt[row] + contexts.output[row]) / block_size <= from) continue;
      stretches_[chain].push_back({from, contexts.first_key[row]});
    }
    for (auto& stretches : stretches_) std::sort(stretches.begin(), stretches.end());
  }

  // `on_keys(first, end)` for blocks [lo, hi) of the chain.
  template <class OnKeys>
  void each(i32 chain, i64 lo, i64 hi, OnKeys&& on_keys) const {
    const auto& stretches = stretches_[chain];
    auto next = std::upper_bound(stretches.begin(), stretches.end(), std::pair<i64, i64>(lo, INT64_MAX));
    for (auto stretch = std::prev(next); lo < hi; stretch = next++) {
      const i64 end = next == stretches.end() ? hi : min_of(hi, next->first);
      on_keys(stretch->second + lo - stretch->first, stretch->second + end - stretch->first);
      lo = end;
    }
  }

 private:
  std::vector<std::vector<std::pair<i64, i64>>> stretches_;  // by chain: where they begin, and their first keys
};

}  // namespace kvsim
