// Rollouts with one turn left out; kvsim/backends/without_kernels.py says what that means, and is the readable text.
#pragma once

#include "turns.hpp"

namespace kvsim {

// The rows that rollouts go through, in dependency order: rollout i through [offsets[i], offsets[i + 1]).
struct Paths {
  const i64* offsets = nullptr;
  const i64* entries = nullptr;
};

// Which turn (by its place) of which rollout is left out.
struct Removals {
  i64 count = 0;
  const i64* rollouts = nullptr;
  const i64* positions = nullptr;
};

// The turns that are left. `waits_rows` is null where waited rows are only counted, both are where there are no joins.
struct Left {
  i64* parent = nullptr;
  i64* after = nullptr;
  i64* kept = nullptr;
  i64* prompt = nullptr;
  i64* pause_ns = nullptr;
  i64* arrival_ns = nullptr;
  i64* source = nullptr;
  i64* waits_offsets = nullptr;
  i64* waits_rows = nullptr;
};

// One rollout of which one turn is left out.
struct Shortened {
  const i64* entries;
  i64 size;
  const i64* local;  // places of the rollout's rows; of others whatever
  i64 position;
  i64 start;

  i64 place_of(i64 row) const {
    const i64 place = local[row];
    return place < size && entries[place] == row ? place : -1;
  }

  i64 renumbered(i64 row) const {
    if (row < 0) return -1;
    const i64 place = place_of(row);
    return place < 0 ? row : start + place - (place > position);
  }
};

// `local` [rows of the batch] is zeroed scratch, `shifts` [longest rollout] scratch. Returns how many rows are waited
// for.
inline i64 without(const Turns& turns, const Paths& paths, const Removals& removals, i64 base, i64* local, i64* shifts,
                   const Left& left) {
  const bool joins = turns.waits_offsets != nullptr;
  i64 waited = 0, number = 0, numbered = -1;
  for (i64 removal = 0; removal < removals.count; ++removal) {
    const i64 rollout = removals.rollouts[removal];
    const i64 begin = paths.offsets[rollout];
    const i64* entries = paths.entries + begin;
    const i64 size = paths.offsets[rollout + 1] - begin;
    if (rollout != numbered) {
      numbered = rollout;
      for (i64 place = 0; place < size; ++place) local[entries[place]] = place;
    }
    const i64 position = removals.positions[removal];
    const i64 gone = entries[position];
    const i64 cut = turns.prompt[gone];
    const Shortened rest{entries, size, local, position, base + number};
    auto wait_for = [&](i64 row) {
      if (left.waits_rows != nullptr) left.waits_rows[waited] = rest.renumbered(row);
      ++waited;
    };
    for (i64 place = 0; place < size; ++place) {
      if (place == position) continue;
      const i64 row = entries[place];
      i64 parent = turns.parent[row];
      i64 kept = turns.kept[row];
      i64 prompt = turns.prompt[row];
      i64 shift = 0;
      if (parent == gone) {
        parent = turns.parent[gone];
        if (kept >= cut) {
          shift = prompt - cut;
          prompt = cut;
        }
        kept = min_of(kept, turns.kept[gone]);
      } else if (parent >= 0 && place > position) {
        const i64 above = rest.place_of(parent);
        shift = above > position ? shifts[above] : 0;
        if (kept >= cut + shift) {
          kept -= shift;
          prompt -= shift;
        } else {
          kept = min_of(kept, cut);
          shift = 0;
        }
      }
      shifts[place] = shift;
      bool follows = turns.after[row] == gone;
      const i64 timed = follows ? gone : row;
      left.parent[number] = rest.renumbered(parent);
      left.after[number] = rest.renumbered(turns.after[timed]);
      left.kept[number] = kept;
      left.prompt[number] = prompt;
      left.pause_ns[number] = turns.pause_ns[timed];
      left.arrival_ns[number] = turns.arrival_ns[timed];
      left.source[number] = row;
      if (joins) {
        left.waits_offsets[number] = waited;
        for (i64 w = turns.waits_offsets[row]; w < turns.waits_offsets[row + 1]; ++w) {
          if (turns.waits_rows[w] != gone) {
            wait_for(turns.waits_rows[w]);
            continue;
          }
          follows = true;
          if (turns.after[gone] >= 0) wait_for(turns.after[gone]);
        }
        if (follows) {
          for (i64 w = turns.waits_offsets[gone]; w < turns.waits_offsets[gone + 1]; ++w) wait_for(turns.waits_rows[w]);
        }
      }
      ++number;
    }
  }
  if (joins) left.waits_offsets[number] = waited;
  return waited;
}

}  // namespace kvsim
