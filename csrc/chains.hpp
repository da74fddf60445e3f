// The prefix tree of all contexts, cut into chains of blocks.
//
// A chain is a stretch of the tree that does not branch: the blocks of a session whose turns extend each other are one
// chain, a fork or a compaction starts another. A chain begins at block `start`; the blocks before it belong to the
// chains above.
#pragma once

#include <cstdint>

#include "containers.hpp"
#include "rates.hpp"

namespace kvsim {

using i32 = std::int32_t;

// Columns of kvsim.backends.engine_kernels.Contexts.
struct Contexts {
  i64 rows = 0;
  const i64* prompt = nullptr;
  const i64* output = nullptr;  // at least 1
  const i64* priority = nullptr;
  const i64* above = nullptr;
  const i64* own_from = nullptr;
  const i64* first_key = nullptr;
  const i64* prefix_key = nullptr;
  const i64* hittable = nullptr;
  const i64* continues = nullptr;
};

struct ChainShape {
  i32 above;             // the chain it branches off, -1 none
  i32 start;             // index of its first block in the context
  i32 shared_until = 0;  // of its blocks those before have a chain that branches off at or behind them
};

struct Chains {
  Vector<ChainShape> shapes;
  Vector<i32> of_row;

  KVSIM_FN explicit Chains(const Contexts& contexts);

 private:
  KVSIM_FN i32 add(i32 above, i64 start) {
    if (above >= 0) {
      i32& shared_until = shapes[above].shared_until;
      if (start > shared_until) shared_until = static_cast<i32>(start);
    }
    shapes.push_back({above, static_cast<i32>(start)});
    return static_cast<i32>(shapes.size() - 1);
  }
};

KVSIM_FN KVSIM_FN inline Chains::Chains(const Contexts& contexts) : of_row(contexts.rows, -1) {
  HashMap<i64, i32> prefixes;
  Vector<i64> pending;
  const auto place = [&](i64 row) {
    const i64 shared = contexts.own_from[row];
    const i64 parent = contexts.above[row];
    if (contexts.continues[row]) {
      of_row[row] = of_row[parent];
      return;
    }
    i32 chain = -1;  // that of the last shared block
    if (shared > 0 && parent >= 0) {
      chain = of_row[parent];
      while (shapes[chain].start >= shared) chain = shapes[chain].above;
    } else if (shared > 0) {
      const auto known = prefixes.find(contexts.prefix_key[row]);
      chain = known != prefixes.end() ? known->second : prefixes[contexts.prefix_key[row]] = add(-1, 0);
    }
    of_row[row] = add(chain, shared);
  };
  for (i64 first = 0; first < contexts.rows; ++first) {
    const i64 above = contexts.above[first];
    if (above < 0 || of_row[above] >= 0) {
      if (of_row[first] < 0) place(first);
      continue;
    }
    for (i64 row = first; row >= 0 && of_row[row] < 0; row = contexts.above[row]) pending.push_back(row);
    for (; !pending.empty(); pending.pop_back()) place(pending.back());
  }
}

}  // namespace kvsim
