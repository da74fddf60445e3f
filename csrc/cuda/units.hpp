// A batch divided into units that can be priced side by side, their rows next to each other in the order of pricing.
//
// A unit is a trajectory where no row depends on another one's; otherwise those that depend on each other are one.
// Within a unit rows keep the order of the batch, so that sums of doubles are added as the C++ core adds them.
#pragma once

#include <numeric>
#include <vector>

#include "../pieces.hpp"

namespace kvsim::cuda {

class Units {
 public:
  // The columns must outlive this, unless they are copied because units do not stand one after the other.
  explicit Units(const Turns& given) : turns_(given) {
    if (stand_apart(given)) {
      mark_trajectories();
    } else {
      unite(given);
      sort(given);
      copy(given);
    }
  }

  // The columns as units have them: no order, references by the new numbers of rows.
  const Turns& turns() const { return turns_; }
  i64 count() const { return static_cast<i64>(starts_.size()) - 1; }
  // Unit u has the rows [starts[u], starts[u + 1]), and trajectories likewise.
  const i64* starts() const { return starts_.data(); }
  const i64* trajectory_starts() const { return trajectory_starts_.data(); }
  // The batch's number of each row and of each trajectory; null where it is the same.
  const i64* rows() const { return rows_.empty() ? nullptr : rows_.data(); }
  const i64* trajectories() const { return trajectories_.empty() ? nullptr : trajectories_.data(); }

 private:
  template <class Visit>
  static void each_need(const Turns& turns, i64 row, Visit&& visit) {
    if (turns.parent[row] >= 0) visit(turns.parent[row]);
    if (turns.after[row] >= 0) visit(turns.after[row]);
    if (turns.waits_offsets == nullptr) return;
    for (i64 w = turns.waits_offsets[row]; w < turns.waits_offsets[row + 1]; ++w) visit(turns.waits_rows[w]);
  }

  // Whether trajectories stand one after the other, in order, and none depends on another.
  static bool stand_apart(const Turns& turns) {
    if (turns.order != nullptr) return false;
    for (i64 row = 0; row < turns.rows; ++row) {
      if (row > 0 && turns.trajectory[row] < turns.trajectory[row - 1]) return false;
      bool apart = true;
      each_need(turns, row, [&](i64 need) { apart &= turns.trajectory[need] == turns.trajectory[row]; });
      if (!apart) return false;
    }
    return true;
  }

  void mark_trajectories() {
    starts_.reserve(turns_.trajectories + 1);
    for (i64 row = 0; row < turns_.rows; ++row) {
      if (row == 0 || turns_.trajectory[row] != turns_.trajectory[row - 1]) starts_.push_back(row);
    }
    starts_.push_back(turns_.rows);
    trajectory_starts_.resize(starts_.size());
    std::iota(trajectory_starts_.begin(), trajectory_starts_.end(), 0);
  }

  // Numbers the units by their first trajectories: unit_of_.
  void unite(const Turns& given) {
    Families families(given.trajectories);
    for (i64 row = 0; row < given.rows; ++row) {
      each_need(given, row, [&](i64 need) { families.join(given.trajectory[row], given.trajectory[need]); });
    }
    std::vector<i64> unit_of_family(given.trajectories, -1);
    unit_of_.resize(given.trajectories);
    i64 units = 0;
    for (i64 t = 0; t < given.trajectories; ++t) {
      i64& unit = unit_of_family[families.of(t)];
      if (unit < 0) unit = units++;
      unit_of_[t] = unit;
    }
    starts_.assign(units + 1, 0);
    trajectory_starts_.assign(units + 1, 0);
  }

  // Counting sorts by unit: rows in the order of the batch, trajectories by number.
  void sort(const Turns& given) {
    for (const i64 unit : unit_of_) ++trajectory_starts_[unit + 1];
    for (i64 row = 0; row < given.rows; ++row) ++starts_[unit_of_[given.trajectory[row]] + 1];
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    std::partial_sum(trajectory_starts_.begin(), trajectory_starts_.end(), trajectory_starts_.begin());
    std::vector<i64> next = trajectory_starts_;
    trajectories_.resize(given.trajectories);
    for (i64 t = 0; t < given.trajectories; ++t) trajectories_[next[unit_of_[t]]++] = t;
    next = starts_;
    rows_.resize(given.rows);
    for (i64 i = 0; i < given.rows; ++i) {
      const i64 row = given.order != nullptr ? given.order[i] : i;
      rows_[next[unit_of_[given.trajectory[row]]]++] = row;
    }
  }

  void copy(const Turns& given) {
    std::vector<i64> place_of(given.rows), number_of(given.trajectories);
    for (i64 place = 0; place < given.rows; ++place) place_of[rows_[place]] = place;
    for (i64 place = 0; place < given.trajectories; ++place) number_of[trajectories_[place]] = place;
    columns_.reserve(12);
    const auto column = [&](const i64* from, auto&& value) -> const i64* {
      if (from == nullptr) return nullptr;
      std::vector<i64>& made = columns_.emplace_back(given.rows);
      for (i64 place = 0; place < given.rows; ++place) made[place] = value(from[rows_[place]]);
      return made.data();
    };
    const auto same = [](i64 value) { return value; };
    const auto moved = [&](i64 row) { return row < 0 ? -1 : place_of[row]; };
    turns_.order = nullptr;
    turns_.parent = column(given.parent, moved);
    turns_.after = given.after == given.parent ? turns_.parent : column(given.after, moved);
    turns_.kept = column(given.kept, same);
    turns_.prompt = column(given.prompt, same);
    turns_.output = column(given.output, same);
    turns_.pause_ns = column(given.pause_ns, same);
    turns_.arrival_ns = column(given.arrival_ns, same);
    turns_.trajectory = column(given.trajectory, [&](i64 t) { return number_of[t]; });
    turns_.shared = column(given.shared, same);
    turns_.logged_cached = column(given.logged_cached, same);
    if (given.waits_offsets == nullptr) return;
    std::vector<i64>& offsets = columns_.emplace_back(1, 0);
    std::vector<i64>& waited = columns_.emplace_back();
    for (const i64 row : rows_) {
      for (i64 w = given.waits_offsets[row]; w < given.waits_offsets[row + 1]; ++w) {
        waited.push_back(place_of[given.waits_rows[w]]);
      }
      offsets.push_back(static_cast<i64>(waited.size()));
    }
    turns_.waits_offsets = offsets.data();
    turns_.waits_rows = waited.data();
  }

  Turns turns_;
  std::vector<i64> unit_of_;  // by trajectory
  std::vector<i64> starts_, trajectory_starts_;
  std::vector<i64> rows_, trajectories_;
  std::vector<std::vector<i64>> columns_;
};

}  // namespace kvsim::cuda
