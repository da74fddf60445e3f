// An order of the turns that puts each after all it depends on.
#pragma once

#include <vector>

#include "turns.hpp"

namespace kvsim {

// Kahn's algorithm, ready rows first come first served; rows on cycles are left out of the result.
inline std::vector<i64> topological_order(const Turns& turns) {
  const i64 rows = turns.rows;
  std::vector<i64> missing(rows, 0), starts(rows + 1, 0);
  auto each_need = [&](i64 row, auto&& visit) {
    if (turns.parent[row] >= 0) visit(turns.parent[row]);
    if (turns.after[row] >= 0) visit(turns.after[row]);
    if (turns.waits_offsets == nullptr) return;
    for (i64 w = turns.waits_offsets[row]; w < turns.waits_offsets[row + 1]; ++w) visit(turns.waits_rows[w]);
  };
  for (i64 row = 0; row < rows; ++row) {
    each_need(row, [&](i64 need) {
      ++missing[row];
      ++starts[need + 1];
    });
  }
  for (i64 row = 0; row < rows; ++row) starts[row + 1] += starts[row];
  std::vector<i64> dependants(starts[rows]), fill(starts.begin(), starts.end() - 1);
  for (i64 row = 0; row < rows; ++row) {
    each_need(row, [&](i64 need) { dependants[fill[need]++] = row; });
  }
  std::vector<i64> order;
  order.reserve(rows);
  for (i64 row = 0; row < rows; ++row) {
    if (missing[row] == 0) order.push_back(row);
  }
  for (std::size_t done = 0; done < order.size(); ++done) {
    const i64 row = order[done];
    for (i64 at = starts[row]; at < starts[row + 1]; ++at) {
      if (--missing[dependants[at]] == 0) order.push_back(dependants[at]);
    }
  }
  return order;
}

}  // namespace kvsim
