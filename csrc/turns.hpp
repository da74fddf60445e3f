// The batch's columns, and when a turn is released.
#pragma once

#include "rates.hpp"

namespace kvsim {

// Column views (kvsim/trajectory.py says what they mean); absent optional ones are null.
struct Turns {
  i64 rows = 0;
  i64 trajectories = 0;
  const i64* parent = nullptr;
  const i64* after = nullptr;
  const i64* kept = nullptr;
  const i64* prompt = nullptr;
  const i64* output = nullptr;
  const i64* pause_ns = nullptr;
  const i64* arrival_ns = nullptr;
  const i64* trajectory = nullptr;
  const i64* order = nullptr;
  const i64* waits_offsets = nullptr;
  const i64* waits_rows = nullptr;
  const i64* shared = nullptr;
  const i64* logged_cached = nullptr;
};

// When the turn comes, given when those it depends on finished. `Columns`: Turns, or what is read like it.
template <class Columns>
KVSIM_HD i64 release_of(const Columns& turns, const i64* finish_ns, i64 row) {
  const i64 after = turns.after[row];
  i64 ready = after >= 0 ? finish_ns[after] : turns.arrival_ns[row];
  bool waited = after >= 0;
  if (turns.waits_offsets != nullptr) {
    for (i64 w = turns.waits_offsets[row]; w < turns.waits_offsets[row + 1]; ++w) {
      ready = max_of(ready, finish_ns[turns.waits_rows[w]]);
      waited = true;
    }
  }
  return waited ? ready + turns.pause_ns[row] : ready;
}

}  // namespace kvsim
