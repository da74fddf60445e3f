// Pricing turns one by one under a declared load: closed form per turn, one pass over the columns.
#pragma once

#include <cstdint>
#include <limits>

#include "rates.hpp"
#include "turns.hpp"

namespace kvsim {

enum Status : std::int8_t { kOk = 0, kOverMax = 1, kOverCapacity = 2 };

// What the context that a turn extends looks like when the turn comes.
struct Reuse {
  i64 hittable = 0;  // tokens that would be found if nothing had been evicted
  i64 reusable = 0;  // blocks the parent left behind
  i64 gap_ns = 0;    // time since the parent finished
  i64 logged = -1;   // cached tokens according to the log, -1 unknown
};

struct Price {
  i64 fresh_ns = 0;
  i64 recompute_ns = 0;
  i64 decode_ns = 0;
  i64 cached_tokens = 0;
  i64 recomputed_tokens = 0;
  double held_block_ns = 0;  // KV blocks times nanoseconds held, in its steps and through the pause before it
  std::int8_t status = kOk;
};

// One row a trajectory.
struct Totals {
  i64 first_release_ns = std::numeric_limits<i64>::max();
  i64 last_finish_ns = 0;
  i64 fresh_ns = 0;
  i64 recompute_ns = 0;
  i64 decode_ns = 0;
  i64 cached_tokens = 0;
  i64 recomputed_tokens = 0;
  i64 unpriced_turns = 0;
};

// One row a turn; all null where only totals are wanted.
struct PriceColumns {
  i64* release_ns = nullptr;
  i64* fresh_ns = nullptr;
  i64* recompute_ns = nullptr;
  i64* decode_ns = nullptr;
  i64* cached_tokens = nullptr;
  i64* recomputed_tokens = nullptr;
  double* held_block_ns = nullptr;
  std::int8_t* status = nullptr;
};

// How many of the hittable tokens are still cached; adds to `held` the blocks x nanoseconds that the pause held.
template <i64 kSurvival>
KVSIM_HD i64 surviving_tokens(const Rates& rates, const Reuse& reuse, i64 prompt, double& held) {
  const double reusable = static_cast<double>(reuse.reusable);
  const double gap = static_cast<double>(reuse.gap_ns);
  if (kSurvival == kTtl) {
    const bool alive = reuse.gap_ns <= rates.ttl_ns;
    held = reusable * (alive ? gap : static_cast<double>(rates.ttl_ns));
    return alive ? reuse.hittable : 0;
  }
  if (kSurvival == kLru) {
    // The parent's blocks joined the free queue at its back: whatever stands before them goes first.
    const i64 context = rates.mean_context >= 0 ? rates.mean_context : prompt;
    const i64 before = max_of(rates.usable_blocks - rates.others * blocks_for(rates, context) - reuse.reusable, 0);
    const i64 taken = reuse.gap_ns / rates.churn_ns;
    const i64 evicted = min_of(max_of(taken - before, 0), reuse.reusable);
    const double whole = static_cast<double>(taken > before ? before * rates.churn_ns : reuse.gap_ns);
    const double shrinking = static_cast<double>(evicted * rates.churn_ns);
    held = reusable * whole + (reusable - static_cast<double>(evicted) * 0.5) * shrinking +
           (reusable - static_cast<double>(evicted)) * (gap - whole - shrinking);
    return min_of(reuse.hittable, (reuse.reusable - evicted) * rates.block_size);
  }
  if (kSurvival == kLogged) {
    held = reuse.logged == 0 ? 0.0 : reusable * gap;
    return reuse.logged >= 0 ? reuse.logged : reuse.hittable;
  }
  if (kSurvival == kAlways || kSurvival == kNoCache) return 0;
  held = reusable * gap;
  return reuse.hittable;
}

template <i64 kSurvival>
KVSIM_HD Price price_turn(const Rates& rates, const i64* step, i64 prompt, i64 output, const Reuse& reuse) {
  Price price;
  const i64 final_blocks = blocks_for(rates, prompt + output - 1);
  if (prompt + output > rates.max_model_len) {
    price.status = kOverMax;
    return price;
  }
  if (final_blocks > rates.usable_blocks) {
    price.status = kOverCapacity;
    return price;
  }
  const i64 cached = surviving_tokens<kSurvival>(rates, reuse, prompt, price.held_block_ns);
  const i64 hittable = kSurvival == kNoCache ? 0 : max_of(reuse.hittable, cached);
  const i64 prefill_ns = to_ns(rates, prefill_time(rates, step, cached, prompt - cached));
  price.fresh_ns = prefill_ns;
  if (kSurvival != kNever && cached != hittable) {
    // A step table need not be strictly monotone, so the part that is fresh is capped at the whole.
    price.fresh_ns = min_of(prefill_ns, to_ns(rates, prefill_time(rates, step, hittable, prompt - hittable)));
  }
  price.recompute_ns = prefill_ns - price.fresh_ns;
  price.decode_ns = to_ns(rates, decode_time(rates, prompt, output - 1));
  price.cached_tokens = cached;
  price.recomputed_tokens = hittable - cached;
  const i64 prompt_blocks = blocks_for(rates, prompt);
  price.held_block_ns += static_cast<double>(prompt_blocks) * static_cast<double>(prefill_ns);
  price.held_block_ns += static_cast<double>(prompt_blocks + final_blocks) * 0.5 * static_cast<double>(price.decode_ns);
  return price;
}

// Prices every row in dependency order. `finish_ns` [rows] is scratch; `totals` and `held_block_ns` [trajectories].
template <i64 kSurvival, bool kWithTurns>
void estimate(const Rates& given, const i64* step, const Turns& turns, i64* finish_ns, Totals* totals,
              double* held_block_ns, const PriceColumns& out) {
  const Rates rates = given;  // a copy that nothing else can point to stays in registers
  for (i64 t = 0; t < turns.trajectories; ++t) totals[t] = Totals{};
  for (i64 t = 0; t < turns.trajectories; ++t) held_block_ns[t] = 0.0;
  Totals total;
  double held = 0.0;
  i64 owner = -1;
  for (i64 i = 0; i < turns.rows; ++i) {
    const i64 row = turns.order != nullptr ? turns.order[i] : i;
    const i64 parent = turns.parent[row];
    const i64 prompt = turns.prompt[row];
    const i64 release = release_of(turns, finish_ns, row);
    Reuse reuse;
    i64 shared = 0;
    if (parent >= 0) {
      const i64 computed = turns.prompt[parent] + max_of(turns.output[parent], 1) - 1;
      shared = min_of(turns.kept[row], computed);
      reuse.reusable = full_blocks(rates, computed);
      reuse.gap_ns = max_of(release - finish_ns[parent], 0);
    } else if (turns.shared != nullptr) {
      shared = turns.shared[row];
    }
    reuse.hittable = full_blocks(rates, min_of(shared, prompt - 1)) * rates.block_size;
    if (kSurvival == kLogged && turns.logged_cached != nullptr) {
      reuse.logged = min_of(turns.logged_cached[row], prompt - 1);
    }
    const Price price = price_turn<kSurvival>(rates, step, prompt, max_of(turns.output[row], 1), reuse);
    const i64 finish = release + price.fresh_ns + price.recompute_ns + price.decode_ns;
    finish_ns[row] = finish;

    if (turns.trajectory[row] != owner) {  // sums live in registers while the trajectory stays the same
      if (owner >= 0) totals[owner] = total, held_block_ns[owner] = held;
      owner = turns.trajectory[row];
      total = totals[owner];
      held = held_block_ns[owner];
    }
    total.first_release_ns = min_of(total.first_release_ns, release);
    total.last_finish_ns = max_of(total.last_finish_ns, finish);
    total.fresh_ns += price.fresh_ns;
    total.recompute_ns += price.recompute_ns;
    total.decode_ns += price.decode_ns;
    total.cached_tokens += price.cached_tokens;
    total.recomputed_tokens += price.recomputed_tokens;
    total.unpriced_turns += price.status != kOk;
    held += price.held_block_ns;
    if (kWithTurns) {
      out.release_ns[row] = release;
      out.fresh_ns[row] = price.fresh_ns;
      out.recompute_ns[row] = price.recompute_ns;
      out.decode_ns[row] = price.decode_ns;
      out.cached_tokens[row] = price.cached_tokens;
      out.recomputed_tokens[row] = price.recomputed_tokens;
      out.held_block_ns[row] = price.held_block_ns;
      out.status[row] = price.status;
    }
  }
  if (owner >= 0) totals[owner] = total, held_block_ns[owner] = held;
}

}  // namespace kvsim
