// What a run comes to, in whole numbers: kvsim/backends/run_sums.py says what each column means.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "radix_sort.hpp"
#include "turns.hpp"

namespace kvsim {

// The columns of turns that are added up; replica is negative where a turn was not served.
struct ServedTurns {
  const i64* release_ns = nullptr;
  const i64* scheduled_ns = nullptr;
  const i64* first_token_ns = nullptr;
  const i64* finish_ns = nullptr;
  const i64* recompute_ns = nullptr;
  const i64* gpu_ns = nullptr;
  const i64* held_block_ns = nullptr;
  const i64* cached_tokens = nullptr;
  const i64* loaded_tokens = nullptr;
  const i64* hittable_tokens = nullptr;
  const i64* replica = nullptr;
};

inline constexpr i64 kNeverNs = std::numeric_limits<i64>::max();

// Of a trajectory: kvsim.backends.run_sums.ByTrajectory, field by field.
struct TrajectorySums {
  i64 refused = 0;
  i64 first_release_ns = kNeverNs;
  i64 last_finish_ns = 0;
  i64 model_ns = 0;
  i64 queue_ns = 0;
  i64 fresh_prefill_ns = 0;
  i64 recompute_ns = 0;
  i64 decode_ns = 0;
  i64 gpu_ns = 0;
  i64 held_block_ns_high = 0;  // what weighs 2^32: blocks x nanoseconds of a long pause may not fit 64 bits
  i64 held_block_ns_low = 0;
  i64 cached_tokens = 0;
  i64 loaded_tokens = 0;
  i64 recomputed_tokens = 0;

  template <class Visit>
  void each(Visit&& visit) const {
    visit(refused);
    visit(first_release_ns);
    visit(last_finish_ns);
    visit(model_ns);
    visit(queue_ns);
    visit(fresh_prefill_ns);
    visit(recompute_ns);
    visit(decode_ns);
    visit(gpu_ns);
    visit(held_block_ns_high);
    visit(held_block_ns_low);
    visit(cached_tokens);
    visit(loaded_tokens);
    visit(recomputed_tokens);
  }
};

// Adds count x value, both at least 0; below 2^31 blocks no part of it overflows.
inline void add_held(TrajectorySums& sums, i64 count, i64 value) {
  const i64 low = count * (value & 0xFFFFFFFF);
  sums.held_block_ns_high += count * (value >> 32) + (low >> 32);
  sums.held_block_ns_low += low & 0xFFFFFFFF;
}

// Of a replica: ByReplica.
struct ReplicaSums {
  i64 turns = 0;
  i64 prompt_tokens = 0;
  i64 output_tokens = 0;
  i64 cached_tokens = 0;
  i64 recomputed_tokens = 0;
  i64 first_release_ns = kNeverNs;
  i64 last_finish_ns = 0;
  i64 longest_prefill_tokens = 0;
  i64 longest_context_tokens = 0;
  i64 peak_sequences = 0;

  template <class Visit>
  void each(Visit&& visit) const {
    visit(turns);
    visit(prompt_tokens);
    visit(output_tokens);
    visit(cached_tokens);
    visit(recomputed_tokens);
    visit(first_release_ns);
    visit(last_finish_ns);
    visit(longest_prefill_tokens);
    visit(longest_context_tokens);
    visit(peak_sequences);
  }
};

// Blocks of all KV groups that a hit of so many blocks of context is made of: kvsim.kv_groups.cached_blocks.
inline i64 cached_blocks(const std::vector<i64>& windows, i64 hits, i64 block_size) {
  i64 found = 0;
  for (const i64 window : windows) {
    found += window != 0 ? min_of(hits, (window - 1 + block_size - 1) / block_size) : hits;
  }
  return found;
}

// The most turns at once, given when they began and ended, in any order.
inline i64 peak(std::vector<i64>& begun, std::vector<i64>& ended, std::vector<i64>& scratch) {
  radix_sort(begun, scratch);
  radix_sort(ended, scratch);
  i64 most = 0;
  std::size_t over = 0;
  for (std::size_t number = 0; number < begun.size(); ++number) {
    while (over < ended.size() && ended[over] <= begun[number]) ++over;
    most = max_of(most, static_cast<i64>(number + 1 - over));
  }
  return most;
}

inline void run_sums(const Turns& turns, const ServedTurns& served, i64 block_size, const std::vector<i64>& windows,
                     std::vector<TrajectorySums>& trajectories, std::vector<ReplicaSums>& replicas) {
  std::vector<std::vector<i64>> begun(replicas.size()), ended(replicas.size());
  for (i64 row = 0; row < turns.rows; ++row) {
    TrajectorySums& mine = trajectories[static_cast<std::size_t>(turns.trajectory[row])];
    const i64 release_ns = served.release_ns[row], finish_ns = served.finish_ns[row];
    mine.first_release_ns = min_of(mine.first_release_ns, release_ns);
    mine.last_finish_ns = max_of(mine.last_finish_ns, finish_ns);
    if (served.replica[row] < 0) {
      mine.refused = 1;
      continue;
    }
    const i64 scheduled_ns = served.scheduled_ns[row], first_token_ns = served.first_token_ns[row];
    const i64 cached = served.cached_tokens[row], lost = max_of(served.hittable_tokens[row] - cached, 0);
    const i64 parent = turns.parent[row];
    mine.model_ns += finish_ns - release_ns;
    mine.queue_ns += scheduled_ns - release_ns;
    mine.fresh_prefill_ns += first_token_ns - scheduled_ns - served.recompute_ns[row];
    mine.recompute_ns += served.recompute_ns[row];
    mine.decode_ns += finish_ns - first_token_ns;
    mine.gpu_ns += served.gpu_ns[row];
    add_held(mine, 1, served.held_block_ns[row]);
    if (parent >= 0) {
      const i64 stayed = (cached - served.loaded_tokens[row]) / block_size;
      add_held(mine, cached_blocks(windows, stayed, block_size), max_of(scheduled_ns - served.finish_ns[parent], 0));
    }
    mine.cached_tokens += cached;
    mine.loaded_tokens += served.loaded_tokens[row];
    mine.recomputed_tokens += lost;

    const std::size_t number = static_cast<std::size_t>(served.replica[row]);
    ReplicaSums& there = replicas[number];
    there.turns += 1;
    there.prompt_tokens += turns.prompt[row];
    there.output_tokens += turns.output[row];
    there.cached_tokens += cached;
    there.recomputed_tokens += lost;
    there.first_release_ns = min_of(there.first_release_ns, release_ns);
    there.last_finish_ns = max_of(there.last_finish_ns, finish_ns);
    there.longest_prefill_tokens = max_of(there.longest_prefill_tokens, turns.prompt[row] - cached);
    there.longest_context_tokens = max_of(there.longest_context_tokens, turns.prompt[row] + turns.output[row]);
    begun[number].push_back(scheduled_ns);
    ended[number].push_back(finish_ns);
  }
  std::vector<i64> scratch;
  for (std::size_t number = 0; number < replicas.size(); ++number) {
    replicas[number].peak_sequences = peak(begun[number], ended[number], scratch);
  }
}

// The sums of the trajectories that were served whole, as the sums of their upper and of their lower 32 bits: together
// they may not fit 64.
struct WholeSums {
  std::vector<i64> high, low;

  explicit WholeSums(const std::vector<TrajectorySums>& trajectories) {
    TrajectorySums{}.each([&](i64) {
      high.push_back(0);
      low.push_back(0);
    });
    for (const TrajectorySums& one : trajectories) {
      if (one.refused != 0) continue;
      std::size_t field = 0;
      one.each([&](i64 value) {
        high[field] += value >> 32;
        low[field++] += value & 0xFFFFFFFF;
      });
    }
  }
};

// One row of kvsim.backends.run_sums.Told.spreads; puts `times` into another order. `shares` rise from 0 to 1.
inline void tell_spread(std::vector<i64>& times, const std::vector<double>& shares, i64* told) {
  if (times.empty()) return;
  told[0] = static_cast<i64>(times.size());
  for (const i64 time : times) {
    told[1] += time >> 32;
    told[2] += time & 0xFFFFFFFF;
  }
  auto from = times.begin();  // all before it are smaller
  for (std::size_t number = 0; number < shares.size(); ++number) {
    const auto below = times.begin() + static_cast<i64>(shares[number] * static_cast<double>(times.size() - 1));
    if (below > from || number == 0) std::nth_element(from, below, times.end());
    from = below;
    const auto above = below + 1;
    told[3 + 2 * number] = *below;
    told[4 + 2 * number] = above == times.end() ? *below : *std::min_element(above, times.end());
  }
}

constexpr i64 kSpreads = 5;

// A row for each of the times; the rows of `told` come one after the other, and are zeros at first.
inline void run_spreads(const Turns& turns, const ServedTurns& served, const std::vector<TrajectorySums>& trajectories,
                        const std::vector<double>& shares, i64* told) {
  const std::size_t width = 3 + 2 * shares.size();
  std::vector<i64> times;
  times.reserve(static_cast<std::size_t>(turns.rows));
  const auto tell = [&](i64 count, auto&& trajectory, auto&& time) {
    times.clear();
    for (i64 number = 0; number < count; ++number) {
      if (trajectories[static_cast<std::size_t>(trajectory(number))].refused == 0) times.push_back(time(number));
    }
    tell_spread(times, shares, told);
    told += width;
  };
  const auto of = [&](i64 row) { return turns.trajectory[row]; };
  tell(turns.rows, of, [&](i64 row) { return served.first_token_ns[row] - served.release_ns[row]; });
  tell(turns.rows, of, [&](i64 row) { return served.finish_ns[row] - served.release_ns[row]; });
  tell(turns.rows, of, [&](i64 row) { return served.scheduled_ns[row] - served.release_ns[row]; });
  tell(turns.rows, of, [&](i64 row) { return served.finish_ns[row] - served.first_token_ns[row]; });
  tell(
      turns.trajectories, [](i64 number) { return number; },
      [&](i64 number) {
        const TrajectorySums& one = trajectories[static_cast<std::size_t>(number)];
        return one.last_finish_ns - one.first_release_ns;
      });
}

}  // namespace kvsim
