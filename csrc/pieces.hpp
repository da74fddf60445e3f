// A batch cut into pieces that can be priced apart, for threads and caches.
#pragma once

#include <atomic>
#include <cstdint>
#include <numeric>
#include <vector>

#include "turns.hpp"
#include "workers.hpp"

namespace kvsim {

// What one thread prices at a time: rows that depend on none outside, whole trajectories.
struct Piece {
  i64 begin = 0;  // places [begin, end) of the order in which rows are visited
  i64 end = 0;
  i64 first_trajectory = 0;  // its trajectories are [first, end), unless pieces are mixed: then [end, end)
  i64 end_trajectory = 0;
};

struct Pieces {
  std::vector<Piece> pieces;
  std::vector<i64> order;  // rows by place; empty: the batch's own order
  bool mixed = false;      // whether the numbers of their trajectories alternate: totals are then to be cleared before

  // The batch with its rows in the order of the pieces.
  Turns ordered(Turns turns) const {
    if (!order.empty()) turns.order = order.data();
    return turns;
  }
};

// Trajectories that depend on each other, directly or not, as sets.
class Families {
 public:
  explicit Families(i64 trajectories) : above_(trajectories) { std::iota(above_.begin(), above_.end(), 0); }

  i64 of(i64 trajectory) {
    while (above_[trajectory] != trajectory) trajectory = above_[trajectory] = above_[above_[trajectory]];
    return trajectory;
  }
  void join(i64 one, i64 other) { above_[of(one)] = of(other); }

 private:
  std::vector<i64> above_;
};

// The batch as one piece.
inline Pieces whole(const Turns& turns) { return {{{0, turns.rows, 0, turns.trajectories}}, {}, false}; }

// Whether the rows of a range stand in the order of their trajectories and depend on none before it.
inline bool stands_alone(const Turns& turns, const Piece& piece) {
  i64 last = piece.begin > 0 ? turns.trajectory[piece.begin - 1] + 1 : 0;
  bool sorted = true, alone = true;
  const auto within = [&](i64 row) {
    return static_cast<std::uint64_t>(row) >= static_cast<std::uint64_t>(piece.begin);
  };
  for (i64 row = piece.begin; row < piece.end; ++row) {
    sorted &= turns.trajectory[row] >= last;
    last = turns.trajectory[row];
    alone &= within(turns.parent[row]);  // none is -1, which as unsigned is the largest
  }
  if (turns.after != turns.parent) {
    for (i64 row = piece.begin; row < piece.end; ++row) alone &= within(turns.after[row]);
  }
  if (turns.waits_offsets != nullptr) {
    const i64 first = turns.waits_offsets[piece.begin], end = turns.waits_offsets[piece.end];
    for (i64 w = first; w < end; ++w) alone &= within(turns.waits_rows[w]);
  }
  return sorted && alone;
}

// The batch cut where one trajectory follows another, into about `most` ranges of about equally many rows; no pieces
// where such ranges depend on each other.
inline Pieces cut_into_ranges(const Turns& turns, i64 most, i64 threads) {
  if (turns.order != nullptr) return {};
  Pieces found;
  for (i64 i = 0, begin = 0; i < most && begin < turns.rows; ++i) {
    i64 end = max_of(turns.rows * (i + 1) / most, begin + 1);
    while (end < turns.rows && turns.trajectory[end] == turns.trajectory[end - 1]) ++end;
    const i64 end_trajectory = end < turns.rows ? turns.trajectory[end] : turns.trajectories;
    found.pieces.push_back({begin, end, turns.trajectory[begin], end_trajectory});
    begin = end;
  }
  std::atomic<bool> alone{true};
  run_on_threads(threads, static_cast<i64>(found.pieces.size()), [&](i64 i) {
    if (!stands_alone(turns, found.pieces[i])) alone.store(false, std::memory_order_relaxed);
  });
  return alone ? found : Pieces{};
}

// The same for any batch, at three times the cost: families of trajectories, in the order in which they come, as many
// as fill a piece. Where the rows of pieces alternate, `order` gathers them.
inline Pieces cut_into_families(const Turns& turns, i64 most) {
  Families families(turns.trajectories);
  std::vector<i64> rows_of(turns.trajectories, 0);
  for (i64 row = 0; row < turns.rows; ++row) {
    const i64 own = turns.trajectory[row];
    ++rows_of[own];
    const auto depends_on = [&](i64 other) {
      if (other >= 0 && turns.trajectory[other] != own) families.join(own, turns.trajectory[other]);
    };
    depends_on(turns.parent[row]);
    if (turns.after != turns.parent) depends_on(turns.after[row]);
    if (turns.waits_offsets != nullptr) {
      for (i64 w = turns.waits_offsets[row]; w < turns.waits_offsets[row + 1]; ++w) depends_on(turns.waits_rows[w]);
    }
  }
  std::vector<i64> family_rows(turns.trajectories, 0);
  for (i64 one = 0; one < turns.trajectories; ++one) family_rows[families.of(one)] += rows_of[one];

  // Pieces by family, then by trajectory.
  std::vector<i64> piece_of_family(turns.trajectories, -1), piece_of(turns.trajectories);
  const i64 size = max_of((turns.rows + most - 1) / max_of(most, 1), 1);
  i64 pieces = 0, filled = 0;
  bool ranges = true;
  for (i64 one = 0; one < turns.trajectories; ++one) {
    i64& piece = piece_of_family[families.of(one)];
    if (piece < 0) {
      if (filled >= size) ++pieces, filled = 0;
      piece = pieces;
      filled += family_rows[families.of(one)];
    }
    piece_of[one] = piece;
    ranges = ranges && (one == 0 || piece_of[one - 1] <= piece);
  }
  pieces = turns.trajectories > 0 ? pieces + 1 : 0;

  Pieces found;
  found.pieces.resize(pieces);
  found.mixed = !ranges;
  for (i64 one = 0; one < turns.trajectories; ++one) {
    Piece& piece = found.pieces[piece_of[one]];
    piece.end += rows_of[one];
    ++piece.end_trajectory;
  }
  for (i64 i = 1; i < pieces; ++i) {
    Piece &before = found.pieces[i - 1], &piece = found.pieces[i];
    piece.begin = before.end;
    piece.end += before.end;
    piece.first_trajectory = before.end_trajectory;
    piece.end_trajectory += before.end_trajectory;
  }
  if (!ranges) {
    for (Piece& piece : found.pieces) piece.first_trajectory = piece.end_trajectory = turns.trajectories;
  }
  const auto row_at = [&](i64 place) { return turns.order != nullptr ? turns.order[place] : place; };
  bool together = true;
  for (i64 place = 1; place < turns.rows && together; ++place) {
    together = piece_of[turns.trajectory[row_at(place - 1)]] <= piece_of[turns.trajectory[row_at(place)]];
  }
  if (!together) {
    std::vector<i64> next(pieces);
    for (i64 i = 0; i < pieces; ++i) next[i] = found.pieces[i].begin;
    found.order.resize(turns.rows);
    for (i64 place = 0; place < turns.rows; ++place) {
      found.order[next[piece_of[turns.trajectory[row_at(place)]]]++] = row_at(place);
    }
  }
  return found;
}

inline Pieces cut(const Turns& turns, i64 most, i64 threads) {
  Pieces ranges = cut_into_ranges(turns, most, threads);
  return ranges.pieces.empty() ? cut_into_families(turns, most) : ranges;
}

}  // namespace kvsim
