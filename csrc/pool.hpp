// vLLM's KV-cache pool in runs: stretches of blocks of one chain with equally many holders. For a single KV group of
// full attention; block_pool.hpp is for all others.
//
// Blocks are anonymous. What a block's number decides in vLLM is kept otherwise:
//  - Free blocks without a key stand before those with one, so that they are a count, and the free queue is the list
//    of idle runs, each evicted from its end (a request frees its last block first).
//  - Which block a lookup returns: the one that got the key first. Those are the primary runs, which cover
//    [start, end) of each chain: a context's known blocks are always a prefix of it, since whoever holds a block holds
//    all before it and frees them later. Blocks with a key that another got before are shadow runs. They are held by
//    the request that computed them, until they are idle, evicted, or promoted when the primary block is evicted.
//  - Who holds what: a request holds the primary blocks up to its depth, except where it owns shadows.
//
// An ordered pool evicts idle blocks by the instant of their next use, the last first, and those that several contexts
// share after all others; shadows are freed when they are idle. See keep_in_order in engine_kernels.py.
#pragma once

#include "chains.hpp"
#include "containers.hpp"
#include "evictions.hpp"
#include "host_tier.hpp"
#include "settings.hpp"

namespace kvsim {

constexpr i32 kNone = -1;

// What a request holds.
struct Holding {
  i32 chain = kNone;    // its context ends in this chain
  i32 keyed = 0;        // blocks with a key: the first of its context
  i32 plain = 0;        // blocks without
  i32 shadows = kNone;  // its own shadow runs
  KVSIM_FN i64 blocks() const { return keyed + plain; }
  KVSIM_FN i64 in_use() const { return blocks(); }
};

class Pool {
 public:
  using Holding = kvsim::Holding;

  static constexpr bool kStepwise = false;  // only how many blocks a stretch of steps takes in all matters

  // What is evicted goes to `host`, if there is one.
  KVSIM_FN Pool(const Chains& chains, const Settings& settings, bool ordered = false, HostTier* host = nullptr)
      : shapes_(chains.shapes.data()),
        retention_(settings.retention),
        ordered_(ordered),
        host_(host),
        told_(host != nullptr),
        plain_free_(settings.num_gpu_blocks - 1),
        free_(settings.num_gpu_blocks - 1),
        states_(chains.shapes.size()) {
    for (std::size_t c = 0; c < states_.size(); ++c) states_[c].end = shapes_[c].start;
    new_run();  // run 0: the ends of the free queue
    runs_[0].earlier = runs_[0].later = 0;
  }

  // From now on, what is evicted is written down.
  KVSIM_FN void keep(EvictionLog* log) {
    log_ = log;
    told_ = log_ != nullptr || host_ != nullptr;
  }

  KVSIM_FN i64 free_blocks() const { return free_; }
  KVSIM_FN i64 evicted() const { return evicted_; }
  KVSIM_FN i64 groups() const { return 1; }

  KVSIM_FN Holding holding_for(i32 chain, i64) const {
    Holding holding;
    holding.chain = chain;
    return holding;
  }

  // How many of a context's first `most` blocks are known.
  KVSIM_FN i64 hits(const Holding& holding, i64 most) const {
    if (retention_ == kNoCaching) return 0;
    i32 chain = holding.chain;
    while (chain != kNone && states_[chain].end == shapes_[chain].start) {
      most = min_of(most, shapes_[chain].start);
      chain = shapes_[chain].above;
    }
    return chain == kNone ? 0 : min_of(most, states_[chain].end);
  }

  // The same, in tokens, if no block had ever lost its key: as the contexts tell.
  KVSIM_FN i64 hittable(const Holding&, i64, i64 told) const { return told; }

  // Blocks that a request with `found` hits must find free to have `in_all`.
  KVSIM_FN i64 demand(i64 found, i64, i64 in_all) const { return in_all - found; }

  // New blocks that a request takes to have so many.
  KVSIM_FN i64 takes(const Holding& holding, i64 blocks) const { return max_of(blocks - holding.blocks(), 0); }

  // How many of a context's first `count` blocks, all known, stand in the free queue.
  KVSIM_FN i64 idle_hits(const Holding& holding, i64 count) const {
    i64 idle = 0;
    i32 chain = holding.chain;
    for (i64 end = count; end > 0; chain = shapes_[chain].above) {
      const i64 start = shapes_[chain].start;
      for (i32 r = states_[chain].last; end > start; r = runs_[r].below) {
        const Run& run = runs_[r];
        if (run.lo >= end) continue;
        if (run.holders == 0) {
          idle += end - run.lo;
        } else if (shadow_runs_ == 0) {
          return idle;  // without shadows, all blocks before one in use are in use
        }
        end = run.lo;
      }
    }
    return idle;
  }

  // Takes the first `count` blocks of the context, all known.
  KVSIM_FN void touch(Holding& holding, i64 count) {
    holding.keyed = static_cast<i32>(count);
    i32 end = holding.keyed;
    for (i32 chain = holding.chain; end > 0; chain = shapes_[chain].above) {
      const i32 start = shapes_[chain].start;
      for (i32 r = states_[chain].last; end > start;) {
        if (runs_[r].lo >= end) {
          r = runs_[r].below;
          continue;
        }
        if (runs_[r].hi > end) r = split(r, end);
        if (runs_[r].holders == 0) {
          unlink(r);
          free_ -= runs_[r].hi - runs_[r].lo;
        }
        runs_[r].holders += 1;
        end = runs_[r].lo;
        const i32 above = runs_[r].above;
        if (above != kNone && runs_[above].holders == runs_[r].holders) merge(r, above);
        r = runs_[r].below;
      }
    }
  }

  // Takes blocks for `slots` tokens in all from the front of the free queue.
  KVSIM_FN void allocate(Holding& holding, i64 blocks) {
    const i64 count = blocks - holding.blocks();
    if (count <= 0) return;
    holding.plain += static_cast<i32>(count);
    take(count);
  }

  // Takes blocks from the front of the free queue for holdings that are told of them later.
  KVSIM_FN void take(i64 count) {
    free_ -= count;
    plain_free_ -= count;
    if (plain_free_ < 0) evict();
  }

  // The first `full` blocks of the request are full: those without a key get theirs.
  KVSIM_FN void give_keys(Holding& holding, i64 full) {
    const i32 keyed = holding.keyed, end = static_cast<i32>(full);
    if (retention_ == kNoCaching || end <= keyed) return;
    i32 hi = end;
    for (i32 chain = holding.chain; hi > keyed; chain = shapes_[chain].above) {
      const i32 start = shapes_[chain].start, lo = keyed > start ? keyed : start;
      if (lo < hi) {
        insert(holding, chain, lo, hi);
        hi = lo;
      }
    }
    holding.plain -= end - keyed;
    holding.keyed = end;
  }

  // No window passes anything.
  KVSIM_FN void pass(Holding&, i64) {}

  // Moves what one request holds to another that holds nothing.
  KVSIM_FN void hand_over(Holding& from, Holding& to) {
    to = from;
    moved(to);
    from.keyed = from.plain = 0;
    from.shadows = kNone;
  }

  // The holding stands elsewhere now.
  KVSIM_FN void moved(Holding& holding) {
    for (i32 s = holding.shadows; s != kNone; s = rare_[s].next_owned) rare_[s].owner = &holding;
  }

  // Gives everything back, the last block first, expecting it to be used again at `next_use`.
  KVSIM_FN void release(Holding& holding, i64 next_use = 0) {
    next_use_ = next_use;
    plain_free_ += holding.plain;
    free_ += holding.plain;
    i32 end = holding.keyed;
    for (i32 chain = holding.chain; end > 0; chain = shapes_[chain].above) {
      const i32 start = shapes_[chain].start;
      while (end > start) {
        i32 lo = start;  // down to here no own shadow
        i32 own = kNone;
        for (i32 s = holding.shadows; s != kNone; s = rare_[s].next_owned) {
          if (runs_[s].chain != chain || runs_[s].lo >= end) continue;
          if (runs_[s].hi == end) own = s;
          lo = static_cast<i32>(max_of(lo, runs_[s].hi));
        }
        if (own != kNone) {
          end = runs_[own].lo;
          disown(holding, own);
          runs_[own].holders = 0;
          ordered_ ? free_twin(own) : retire(own);
        } else {
          release_primary(chain, lo, end);
          end = lo;
        }
      }
    }
    holding.keyed = holding.plain = 0;
  }

 private:
  struct Run {
    i32 chain = kNone;
    i32 lo = 0, hi = 0;
    i32 holders = 0;
    i32 below = kNone, above = kNone;    // primary: neighbours in the chain; shadow: earlier and later shadows of it
    i32 earlier = kNone, later = kNone;  // in the free queue
  };
  // What few runs have, kept apart so that two runs fit a line of the processor's cache.
  struct Rare {
    Holding* owner = nullptr;  // who computed a shadow and still holds it
    i32 next_owned = kNone;
    bool shadow = false;
    i64 next_use = 0;  // of an idle run in an ordered pool
  };
  struct ChainState {
    // Known blocks: [start, end). Requests give their last blocks back first, so that a chain is evicted from its end,
    // and only shadows can leave holes.
    i32 end = 0;
    i32 last = kNone;                               // the primary run that ends there
    i32 first_shadow = kNone, last_shadow = kNone;  // in the order in which they got their keys
  };

  KVSIM_FN bool is_shadow(i32 r) const { return shadow_runs_ > 0 && rare_[r].shadow; }

  // ---- The free queue ----

  KVSIM_FN void link_before(i32 r, i32 place) {
    const i32 before = runs_[place].earlier;
    runs_[r].earlier = before;
    runs_[r].later = place;
    runs_[before].later = r;
    runs_[place].earlier = r;
  }

  KVSIM_FN void unlink(i32 r) {
    const i32 earlier = runs_[r].earlier, later = runs_[r].later;
    runs_[earlier].later = later;
    runs_[later].earlier = earlier;
    if (ordered_) leave_rank(r);
  }

  // Runs with the same next use are neighbours in an ordered queue; last_of_ has the last of them.
  KVSIM_FN KVSIM_LONG_WAY void leave_rank(i32 r) {
    const auto rank = last_of_.find(rare_[r].next_use);
    if (rank->second != r) return;
    const i32 before = runs_[r].earlier;
    if (before != 0 && rare_[before].next_use == rank->first) {
      rank->second = before;
    } else {
      last_of_.erase(rank);
    }
  }

  // Behind those that are used again later or at the same instant.
  KVSIM_FN KVSIM_LONG_WAY void link_ordered(i32 r) {
    const Run& run = runs_[r];
    i64& next_use = rare_[r].next_use = next_use_;
    if (run.lo < shapes_[run.chain].shared_until) {
      next_use = kShared;
    } else if (run.above != kNone && runs_[run.above].holders == 0) {
      next_use = min_of(next_use_, rare_[run.above].next_use);
    }
    const auto rank = last_of_.lower_bound(next_use);
    link_before(r, rank == last_of_.end() ? runs_[0].later : runs_[rank->second].later);
    last_of_[next_use] = r;
  }

  // As many blocks lose their keys as are taken beyond the plain ones.
  KVSIM_FN void evict() {
    const i32 count = static_cast<i32>(-plain_free_);
    plain_free_ = 0;
    evicted_ += count;
    Run& run = runs_[runs_[0].later];
    ChainState& state = states_[run.chain];
    if (run.hi - run.lo <= count || state.first_shadow != kNone || told_) {
      evict_runs(count);
    } else {  // mostly a few blocks from the end of one run
      state.end = run.hi -= count;
    }
  }

  KVSIM_FN KVSIM_LONG_WAY void evict_runs(i32 count) {
    while (count > 0) {
      const i32 r = runs_[0].later;
      const Run& run = runs_[r];
      const i32 taken = static_cast<i32>(min_of(count, run.hi - run.lo));
      count -= taken;
      if (told_) tell(run.chain, run.hi - taken, run.hi);
      forget(r, taken);
    }
  }

  // A run that nobody holds any more joins the free queue at its back.
  KVSIM_FN void retire(i32 r) {
    const i32 blocks = runs_[r].hi - runs_[r].lo;
    free_ += blocks;
    ordered_ ? link_ordered(r) : link_before(r, 0);
    if (retention_ == kDrop) {
      plain_free_ += blocks;
      forget(r, blocks);
      return;
    }
    join_idle(r);
  }

  // An idle run and the one above it are one if they are evicted one after the other.
  KVSIM_FN void join_idle(i32 r) {
    const i32 before = runs_[r].earlier;
    if (before != runs_[r].above || before == kNone || before == 0 || is_shadow(r)) return;
    if (!ordered_ || rare_[before].next_use == rare_[r].next_use) merge_idle(r, before);
  }

  // A shadow that nobody holds is free at once; the primary blocks take its place in the order.
  KVSIM_FN KVSIM_LONG_WAY void free_twin(i32 shadow) {
    const i32 chain = runs_[shadow].chain, lo = runs_[shadow].lo, hi = runs_[shadow].hi;
    plain_free_ += hi - lo;
    free_ += hi - lo;
    drop_shadow(shadow);
    i32 r = states_[chain].last;
    while (r != kNone && runs_[r].lo >= hi) r = runs_[r].below;
    while (r != kNone && runs_[r].hi > lo) {
      if (runs_[r].holders == 0) {
        if (runs_[r].hi > hi) r = split(r, hi);
        if (runs_[r].lo < lo) split(r, lo);
        unlink(r);
        link_ordered(r);
      }
      const i32 below = runs_[r].below;
      if (runs_[r].holders == 0) join_idle(r);
      r = below;
    }
  }

  KVSIM_FN KVSIM_RARE void tell(i32 chain, i32 lo, i32 hi) {
    if (log_ != nullptr) log_->note(chain, 0, lo, hi);
    if (host_ != nullptr) host_->store(chain, lo, hi);
  }

  // The last `count` blocks of an idle run lose their keys.
  KVSIM_FN void forget(i32 r, i32 count) {
    Run& run = runs_[r];
    const i32 chain = run.chain, hi = run.hi, lo = hi - count;
    const bool shadow = is_shadow(r);
    run.hi = lo;
    if (lo == run.lo) {
      unlink(r);
      shadow ? drop_shadow(r) : drop_primary(r);
    }
    if (shadow) return;
    ChainState& state = states_[chain];
    state.end = lo;
    if (state.first_shadow == kNone) return;
    promote(chain, lo, hi);
    state.end = state.last == kNone ? shapes_[chain].start : runs_[state.last].hi;
  }

  // ---- Primary runs ----

  // What is rare of a run taken over is as drop_shadow() and disown() left it, or set before it is read.
  KVSIM_FN i32 new_run() {
    if (unused_ == kNone) {
      runs_.emplace_back();
      rare_.emplace_back();
      return static_cast<i32>(runs_.size() - 1);
    }
    const i32 r = unused_;
    unused_ = runs_[r].later;
    runs_[r] = Run{};
    return r;
  }

  KVSIM_FN void discard(i32 r) {
    runs_[r].later = unused_;
    unused_ = r;
  }

  KVSIM_FN void link_primary(i32 r, i32 below, i32 above) {
    runs_[r].below = below;
    runs_[r].above = above;
    if (below != kNone) runs_[below].above = r;
    if (above != kNone) {
      runs_[above].below = r;
    } else {
      states_[runs_[r].chain].last = r;
    }
  }

  KVSIM_FN void drop_primary(i32 r) {
    const Run& run = runs_[r];
    if (run.below != kNone) runs_[run.below].above = run.above;
    if (run.above != kNone) {
      runs_[run.above].below = run.below;
    } else {
      states_[run.chain].last = run.below;
    }
    discard(r);
  }

  // Cuts a primary run at block `at`; returns the lower part. The upper one is evicted first.
  KVSIM_FN KVSIM_LONG_WAY i32 split(i32 r, i32 at) {
    const i32 lower = new_run();
    runs_[lower].chain = runs_[r].chain;
    runs_[lower].lo = runs_[r].lo;
    runs_[lower].hi = at;
    runs_[lower].holders = runs_[r].holders;
    runs_[r].lo = at;
    link_primary(lower, runs_[r].below, r);
    if (runs_[r].holders == 0) {
      link_before(lower, runs_[r].later);
      rare_[lower].next_use = rare_[r].next_use;
      if (ordered_ && last_of_[rare_[r].next_use] == r) last_of_[rare_[r].next_use] = lower;
    }
    return lower;
  }

  // Joins the run above to a held one.
  KVSIM_FN void merge(i32 r, i32 above) {
    runs_[above].lo = runs_[r].lo;
    runs_[above].below = runs_[r].below;
    if (runs_[r].below != kNone) runs_[runs_[r].below].above = above;
    // The lower run's number stays valid for the caller's walk: only its neighbour below is read from it.
    discard(r);
  }

  KVSIM_FN void merge_idle(i32 r, i32 above) {
    unlink(r);
    merge(r, above);
  }

  KVSIM_FN void release_primary(i32 chain, i32 lo, i32 end) {
    i32 r = states_[chain].last;
    while (end > lo) {
      while (runs_[r].lo >= end) r = runs_[r].below;
      if (runs_[r].hi > end) r = split(r, end);
      if (runs_[r].lo < lo) split(r, lo);
      if (ordered_) {
        const i32 shared_until = shapes_[chain].shared_until;
        if (runs_[r].lo < shared_until && shared_until < runs_[r].hi) split(r, shared_until);
      }
      end = runs_[r].lo;
      const i32 below = runs_[r].below;
      runs_[r].holders -= 1;
      if (runs_[r].holders == 0) retire(r);
      r = below;
    }
  }

  // Blocks [lo, hi) of the chain get their keys.
  KVSIM_FN void insert(Holding& holding, i32 chain, i32 lo, i32 hi) {
    ChainState& state = states_[chain];
    if (lo < state.end) {
      const i32 cut = static_cast<i32>(min_of(hi, state.end));
      add_shadow(holding, chain, lo, cut);
      if (cut == hi) return;
      lo = cut;
    }
    if (state.last != kNone && runs_[state.last].holders == 1) {
      runs_[state.last].hi = hi;
    } else {
      const i32 r = new_run();
      runs_[r].chain = chain;
      runs_[r].lo = lo;
      runs_[r].hi = hi;
      runs_[r].holders = 1;
      link_primary(r, state.last, kNone);
    }
    state.end = hi;
  }

  // ---- Shadow runs ----

  KVSIM_FN void link_shadow(i32 r, i32 before) {  // before: the shadow of the chain that got its key next, or none
    ChainState& state = states_[runs_[r].chain];
    rare_[r].shadow = true;
    runs_[r].above = before;
    runs_[r].below = before == kNone ? state.last_shadow : runs_[before].below;
    (runs_[r].below == kNone ? state.first_shadow : runs_[runs_[r].below].above) = r;
    (before == kNone ? state.last_shadow : runs_[before].below) = r;
    ++shadow_runs_;
  }

  KVSIM_FN void unlink_shadow(i32 r) {
    ChainState& state = states_[runs_[r].chain];
    (runs_[r].below == kNone ? state.first_shadow : runs_[runs_[r].below].above) = runs_[r].above;
    (runs_[r].above == kNone ? state.last_shadow : runs_[runs_[r].above].below) = runs_[r].below;
    rare_[r].shadow = false;
    --shadow_runs_;
  }

  KVSIM_FN void drop_shadow(i32 r) {
    unlink_shadow(r);
    discard(r);
  }

  KVSIM_FN void own(Holding& holding, i32 r) {
    rare_[r].owner = &holding;
    rare_[r].next_owned = holding.shadows;
    holding.shadows = r;
  }

  KVSIM_FN void disown(Holding& holding, i32 r) {
    i32* place = &holding.shadows;
    while (*place != r) place = &rare_[*place].next_owned;
    *place = rare_[r].next_owned;
    rare_[r].owner = nullptr;
  }

  KVSIM_FN KVSIM_LONG_WAY void add_shadow(Holding& holding, i32 chain, i32 lo, i32 hi) {
    const i32 r = new_run();
    runs_[r].chain = chain;
    runs_[r].lo = lo;
    runs_[r].hi = hi;
    runs_[r].holders = 1;
    link_shadow(r, kNone);
    own(holding, r);
  }

  // Cuts a shadow at block `at`; returns the lower part.
  KVSIM_FN i32 split_shadow(i32 r, i32 at) {
    const i32 lower = new_run();
    runs_[lower].chain = runs_[r].chain;
    runs_[lower].lo = runs_[r].lo;
    runs_[lower].hi = at;
    runs_[lower].holders = runs_[r].holders;
    runs_[r].lo = at;
    link_shadow(lower, r);
    if (rare_[r].owner != nullptr) {
      own(*rare_[r].owner, lower);
    } else {
      link_before(lower, runs_[r].later);
    }
    return lower;
  }

  // Primary blocks [lo, hi) are gone: the shadows that got these keys next take their place.
  KVSIM_FN __attribute__((noinline)) void promote(i32 chain, i32 lo, i32 hi) {
    i32 r = states_[chain].first_shadow;
    for (;;) {
      while (lo < hi && r != kNone && (runs_[r].hi <= lo || runs_[r].lo >= hi)) r = runs_[r].above;
      if (lo >= hi || r == kNone) {
        if (gaps_.empty()) return;
        r = gaps_.back().from;
        lo = gaps_.back().lo;
        hi = gaps_.back().hi;
        gaps_.pop_back();
        continue;
      }
      if (runs_[r].hi > hi) r = split_shadow(r, hi);
      const i32 next = runs_[r].above;
      if (runs_[r].lo < lo) split_shadow(r, lo);
      const i32 from = runs_[r].lo, to = runs_[r].hi;
      if (rare_[r].owner != nullptr) disown(*rare_[r].owner, r);
      unlink_shadow(r);
      i32 above = kNone, below = states_[chain].last;
      while (below != kNone && runs_[below].lo >= to) above = below, below = runs_[below].below;
      link_primary(r, below, above);
      // What it leaves open on both sides is for those after it, the lower side first.
      if (to < hi) gaps_.push_back({next, to, hi});
      r = next;
      hi = from;
    }
  }

  // Primary blocks [lo, hi) that the shadows from one on may take the place of.
  struct Gap {
    i32 from;
    i32 lo, hi;
  };

  static constexpr i64 kShared = -1;

  const ChainShape* shapes_;
  i64 retention_;
  bool ordered_;
  HostTier* host_;
  EvictionLog* log_ = nullptr;
  bool told_;              // whether anybody asks what is evicted
  i64 next_use_ = 0;       // of the blocks being given back
  Map<i64, i32> last_of_;  // by next use
  i64 plain_free_;
  i64 free_;
  i64 evicted_ = 0;
  i64 shadow_runs_ = 0;
  i32 unused_ = kNone;
  Vector<Run> runs_;
  Vector<Rare> rare_;
  Vector<ChainState> states_;
  Vector<Gap> gaps_;  // empty but while promote() runs
};

}  // namespace kvsim
