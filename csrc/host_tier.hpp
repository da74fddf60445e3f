// A second tier of blocks behind the pool: the keys stored last, as many as there is room for.
//
// Runs of blocks of one chain stand in a queue by the time they were stored; within a run the last block was stored
// first and is lost first.
#pragma once

#include "chains.hpp"
#include "containers.hpp"

namespace kvsim {

class HostTier {
 public:
  KVSIM_FN HostTier(const Chains& chains, i64 blocks) : shapes_(chains.shapes.data()), room_(blocks) {}

  // Blocks [first, end) of the context that ends in the chain.
  KVSIM_FN void store_context(i32 chain, i64 first, i64 end) {
    for (; end > first; chain = shapes_[chain].above) {
      const i64 lo = max_of(first, shapes_[chain].start);
      if (lo < end) {
        store(chain, static_cast<i32>(lo), static_cast<i32>(end));
        end = lo;
      }
    }
  }

  // Blocks [lo, hi) of the chain.
  KVSIM_FN void store(i32 chain, i32 lo, i32 hi) {
    cut_out(chain, lo, hi);
    add({chain, lo, hi}, queue_.end());
    while (stored_ > room_) {
      Run& oldest = queue_.front();
      const i32 lost = static_cast<i32>(min_of(stored_ - room_, oldest.hi - oldest.lo));
      oldest.hi -= lost;
      stored_ -= lost;
      if (oldest.hi == oldest.lo) drop(queue_.begin());
    }
  }

  // How many of the context's blocks [first, end) are stored in a row from the first one on.
  KVSIM_FN i64 hits(i32 chain, i64 first, i64 end) const {
    i64 known = end;
    for (; end > first; chain = shapes_[chain].above) {
      const i64 lo = max_of(first, shapes_[chain].start);
      if (lo >= end) continue;
      const i64 reached = reach(chain, static_cast<i32>(lo), static_cast<i32>(end));
      if (reached < end) known = reached;
      end = lo;
    }
    return known - first;
  }

 private:
  struct Run {
    i32 chain;
    i32 lo, hi;
  };
  struct Spot {
    i32 chain;
    i32 block;
    KVSIM_FN bool operator<(const Spot& other) const {
      return chain != other.chain ? chain < other.chain : block < other.block;
    }
    KVSIM_FN bool operator==(const Spot& other) const { return chain == other.chain && block == other.block; }
  };
  using Queue = List<Run>;
  using Place = Queue::iterator;

  KVSIM_FN void add(const Run& run, Place before) {
    by_block_[Spot{run.chain, run.lo}] = queue_.insert(before, run);
    stored_ += run.hi - run.lo;
  }

  KVSIM_FN void drop(Place place) {
    stored_ -= place->hi - place->lo;
    by_block_.erase(Spot{place->chain, place->lo});
    queue_.erase(place);
  }

  // Takes blocks out of the runs that have them.
  KVSIM_FN void cut_out(i32 chain, i32 lo, i32 hi) {
    auto at = by_block_.upper_bound(Spot{chain, lo});
    if (at != by_block_.begin()) {
      const auto before = algorithms::prev(at);
      if (before->first.chain == chain && before->second->hi > lo) at = before;
    }
    while (at != by_block_.end() && at->first.chain == chain && at->first.block < hi) {
      const Place place = at->second;
      const Run run = *place;
      ++at;
      const Place next = algorithms::next(place);
      drop(place);
      if (run.hi > hi) add({chain, hi, run.hi}, next);
      if (run.lo < lo) add({chain, run.lo, lo}, next);
    }
  }

  // The first block of [lo, hi) that is not stored, else hi.
  KVSIM_FN i32 reach(i32 chain, i32 lo, i32 hi) const {
    auto at = by_block_.upper_bound(Spot{chain, lo});
    if (at != by_block_.begin() && algorithms::prev(at)->first.chain == chain) {
      lo = static_cast<i32>(max_of(lo, algorithms::prev(at)->second->hi));
    }
    for (; lo < hi && at != by_block_.end() && at->first == Spot{chain, lo}; ++at) lo = at->second->hi;
    return lo < hi ? lo : hi;
  }

  const ChainShape* shapes_;
  i64 room_;
  i64 stored_ = 0;
  Queue queue_;
  Map<Spot, Place> by_block_;  // the first
};

}  // namespace kvsim
