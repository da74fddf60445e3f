// Which replica a turn goes to.
#pragma once

#include "containers.hpp"
#include "replica.hpp"

namespace kvsim {

enum Routing : i64 { kRoundRobin = 0, kLeastLoaded = 1, kSticky = 2, kPrefixAware = 3 };

class Router {
 public:
  KVSIM_FN Router(i64 routing, i64 trajectories)
      : routing_(routing), homes_(routing == kSticky ? trajectories : 0, kNone) {}

  // The replica for the turn; the first of equals.
  template <class Replica>
  KVSIM_FN i64 route(const Vector<Owner<Replica> >& replicas, i64 trajectory, i64 row, i64 now_ns) {
    const i64 count = static_cast<i64>(replicas.size());
    if (count == 1) return 0;
    if (routing_ == kRoundRobin) return next_++ % count;
    if (routing_ == kSticky && homes_[trajectory] != kNone) return homes_[trajectory];
    i64 best = 0, least = load(*replicas[0], row, now_ns);
    for (i64 replica = 1; replica < count; ++replica) {
      const i64 other = load(*replicas[replica], row, now_ns);
      if (other < least) best = replica, least = other;
    }
    if (routing_ == kSticky) homes_[trajectory] = static_cast<i32>(best);
    return best;
  }

 private:
  // Unfinished requests, or their prompts' blocks and those that the turn would miss.
  template <class Replica>
  KVSIM_FN i64 load(Replica& replica, i64 row, i64 now_ns) const {
    if (routing_ != kPrefixAware) return replica.scheduler().unfinished();
    replica.catch_up(now_ns);
    return replica.missing_blocks(row) + replica.scheduler().prompt_blocks();
  }

  i64 routing_;
  i64 next_ = 0;
  Vector<i32> homes_;  // by trajectory
};

}  // namespace kvsim
