// Pricing turns one by one under a declared load: closed form per turn, one pass over the columns.
#pragma once

#include <cstdint>

#include "pieces.hpp"
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
  i64 first_release_ns = INT64_MAX;
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

  KVSIM_HD void tell(i64 row, i64 release, const Price& price) const {
    release_ns[row] = release;
    fresh_ns[row] = price.fresh_ns;
    recompute_ns[row] = price.recompute_ns;
    decode_ns[row] = price.decode_ns;
    cached_tokens[row] = price.cached_tokens;
    recomputed_tokens[row] = price.recomputed_tokens;
    held_block_ns[row] = price.held_block_ns;
    status[row] = price.status;
  }
};

// Whether the common, simplest case is at hand.
KVSIM_HD bool is_plain(const Rates& rates, const Turns& turns) {
  return turns.order == nullptr && turns.waits_offsets == nullptr && turns.shared == nullptr && rates.window == 0 &&
         rates.block_shift >= 0;
}

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

// Whether a turn can run at all beside the load.
KVSIM_HD std::int8_t status_of(const Rates& rates, i64 prompt, i64 output) {
  if (prompt + output > rates.max_model_len) return kOverMax;
  i64 beside = 0;
  if (rates.others > 0)
    beside = rates.others * blocks_for(rates, rates.mean_context >= 0 ? rates.mean_context : prompt);
  return blocks_for(rates, prompt + output - 1) + beside > rates.usable_blocks ? kOverCapacity : kOk;
}

template <i64 kSurvival>
KVSIM_HD Price price_turn(const Rates& rates, const i64* step, i64 prompt, i64 output, const Reuse& reuse) {
  Price price;
  const i64 final_blocks = blocks_for(rates, prompt + output - 1);
  price.status = status_of(rates, prompt, output);
  if (price.status != kOk) return price;
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

// Sums of the trajectory at hand, in registers while it stays the same. Trajectories [first, end) are cleared on the
// way, so that nobody need do so before; others are only added to.
class RunningTotals {
 public:
  KVSIM_HD RunningTotals(Totals* totals, double* held_block_ns, i64 first, i64 end)
      : totals_(totals), held_(held_block_ns), end_(end), seen_(first) {}

  KVSIM_HD void add(i64 trajectory, i64 release, i64 finish, const Price& price) {
    if (trajectory != owner_) switch_to(trajectory);
    total_.first_release_ns = min_of(total_.first_release_ns, release);
    total_.last_finish_ns = max_of(total_.last_finish_ns, finish);
    total_.fresh_ns += price.fresh_ns;
    total_.recompute_ns += price.recompute_ns;
    total_.decode_ns += price.decode_ns;
    total_.cached_tokens += price.cached_tokens;
    total_.recomputed_tokens += price.recomputed_tokens;
    total_.unpriced_turns += price.status != kOk;
    total_held_ += price.held_block_ns;
  }

  KVSIM_HD void finish() {
    if (owner_ >= 0) store();
    clear_up_to(end_);
  }

 private:
  KVSIM_HD void switch_to(i64 trajectory) {
    if (owner_ >= 0) store();
    owner_ = trajectory;
    if (trajectory >= seen_) {  // nothing was stored there yet, so there is nothing to load
      clear_up_to(trajectory);
      seen_ = trajectory + 1;
      total_ = Totals{};
      total_held_ = 0.0;
    } else {
      total_ = totals_[trajectory];
      total_held_ = held_[trajectory];
    }
  }

  KVSIM_HD void store() {
    totals_[owner_] = total_;
    held_[owner_] = total_held_;
  }

  KVSIM_HD void clear_up_to(i64 end) {
    for (; seen_ < end; ++seen_) {
      totals_[seen_] = Totals{};
      held_[seen_] = 0.0;
    }
  }

  Totals* totals_;
  double* held_;
  i64 end_;
  i64 owner_ = -1;
  i64 seen_;  // trajectories below have a row in memory, or are the owner
  Totals total_;
  double total_held_ = 0.0;
};

// Adds nothing up.
struct NoTotals {
  KVSIM_HD void add(i64, i64, i64, const Price&) const {}
};

// Prices the rows at places [first, last) of the order, all that they depend on being among them or before them.
// `kPlain` promises rows in order, no joins, shared prefixes or windows, and blocks of a power of two. `Columns`:
// Turns, or what is read like it. `out` is told the price of each row if `kWithTurns`.
template <i64 kSurvival, bool kWithTurns, bool kPlain, class Columns, class Running, class Out>
KVSIM_HD void price_rows(const Rates& rates, const i64* step, const Columns& turns, i64 first, i64 last, i64* finish_ns,
                         Running& running, const Out& out) {
  if constexpr (kPlain) {
    if (!is_plain(rates, turns)) KVSIM_UNREACHABLE();
  }
  for (i64 i = first; i < last; ++i) {
    const i64 row = turns.order != nullptr ? turns.order[i] : i;
    const i64 parent = turns.parent[row];
    const i64 prompt = turns.prompt[row];
    const i64 release = release_of(turns, finish_ns, row);
    Reuse reuse;
    i64 shared = 0;
    if (parent >= 0) {
      const i64 parent_output = max_of(turns.output[parent], 1);
      i64 computed = turns.prompt[parent] + parent_output - 1;
      // Where only the parent is waited for, the gap is the pause: no need to wait for its finish to be known.
      const bool only_parent = turns.after[row] == parent && turns.waits_offsets == nullptr;
      reuse.gap_ns = only_parent ? turns.pause_ns[row] : release - finish_ns[parent];
      if (reuse.gap_ns < 0) {  // the parent is still running, or has not even come
        const bool came = turns.after[parent] >= 0 || turns.arrival_ns[parent] <= release;
        computed = came ? turns.prompt[parent] : 0;
        reuse.gap_ns = 0;
      }
      if (status_of(rates, turns.prompt[parent], parent_output) != kOk) computed = 0;
      shared = min_of(turns.kept[row], computed);
      reuse.reusable = full_blocks(rates, computed);
    } else if (turns.shared != nullptr) {  // a named prefix is in use by others: only kAlways loses it
      shared = turns.shared[row];
      reuse.reusable = full_blocks(rates, shared);
    }
    reuse.hittable = full_blocks(rates, min_of(shared, prompt - 1)) * rates.block_size;
    if (kSurvival == kLogged && turns.logged_cached != nullptr) {
      reuse.logged = min_of(turns.logged_cached[row], prompt - 1);
    }
    const Price price = price_turn<kSurvival>(rates, step, prompt, max_of(turns.output[row], 1), reuse);
    const i64 finish = release + price.fresh_ns + price.recompute_ns + price.decode_ns;
    finish_ns[row] = finish;
    running.add(turns.trajectory[row], release, finish, price);
    if (kWithTurns) out.tell(row, release, price);
  }
}

// Prices the rows of a piece. `finish_ns` [rows] is scratch; `totals` and `held_block_ns` [trajectories].
template <i64 kSurvival, bool kWithTurns, bool kPlain>
void estimate(const Rates& given, const i64* step, const Turns& columns, const Piece& piece, i64* finish_ns,
              Totals* totals, double* held_block_ns, const PriceColumns& out) {
  const Rates rates = given;  // copies that nothing else can point to stay in registers
  const Turns turns = columns;
  RunningTotals running(totals, held_block_ns, piece.first_trajectory, piece.end_trajectory);
  price_rows<kSurvival, kWithTurns, kPlain>(rates, step, turns, piece.begin, piece.end, finish_ns, running, out);
  running.finish();
}

}  // namespace kvsim
