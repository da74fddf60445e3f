// When turns come: the events that the workload itself brings.
#pragma once

#include "containers.hpp"
#include "least_first.hpp"
#include "rates.hpp"

namespace kvsim {

// kvsim.backends.engine_kernels.Workload says the same, field by field.
struct Workload {
  i64 trajectories = 0;
  const i64* start_ns = nullptr;
  i64 refill = 1;
  const i64* trajectory = nullptr;
  const i64* offset_ns = nullptr;
  const i64* pause_ns = nullptr;
  const i64* needs = nullptr;
  const i64* dependants = nullptr;
  const i64* dependants_start = nullptr;
  const i64* roots = nullptr;
  const i64* roots_start = nullptr;
  const i64* refused = nullptr;
};

// A turn that comes.
struct Due {
  i64 ns;
  i64 row;
  KVSIM_FN bool before(const Due& other) const { return (ns < other.ns) | ((ns == other.ns) & (row < other.row)); }
};

// When turns are released: at a start, or when the last of those they need finishes and the pause is over.
class Arrivals {
 public:
  KVSIM_FN Arrivals(const Workload& workload, i64 rows)
      : workload_(workload), waits_(rows), left_(workload.trajectories, 0) {
    for (i64 row = 0; row < rows; ++row) {
      waits_[row] = {workload.needs[row], 0, workload.pause_ns[row]};
      ++left_[workload.trajectory[row]];
    }
    for (i64 t = 0; t < workload.trajectories; ++t) {
      if (workload.start_ns[t] >= 0) start(t, workload.start_ns[t]);
    }
  }

  // When the next turn comes; never, if none is due.
  KVSIM_FN i64 next_ns() const { return due_.empty() ? INT64_MAX : due_.top().ns; }
  KVSIM_FN Due pop() {
    const Due due = due_.top();
    due_.pop();
    return due;
  }

  KVSIM_FN void finish(i64 row, i64 now_ns) {
    for (i64 at = workload_.dependants_start[row]; at < workload_.dependants_start[row + 1]; ++at) {
      meet_need(workload_.dependants[at], now_ns);
    }
    if (--left_[workload_.trajectory[row]] > 0 || ++ended_ % workload_.refill != 0) return;
    for (i64 n = 0; n < workload_.refill; ++n) start_next(now_ns);
  }

  // Starts the first trajectory that waits for another one's end; says whether there was one.
  KVSIM_FN bool start_next(i64 now_ns) {
    while (following_ < workload_.trajectories && workload_.start_ns[following_] >= 0) ++following_;
    if (following_ == workload_.trajectories) return false;
    start(following_++, now_ns);
    return true;
  }

 private:
  KVSIM_FN void start(i64 trajectory, i64 now_ns) {
    for (i64 at = workload_.roots_start[trajectory]; at < workload_.roots_start[trajectory + 1]; ++at) {
      const i64 row = workload_.roots[at];
      const i64 due_ns = now_ns + workload_.offset_ns[row];
      if (waits_[row].needs == 0) {
        due_.push({due_ns, row});
      } else {
        meet_need(row, due_ns);
      }
    }
  }

  KVSIM_FN void meet_need(i64 row, i64 now_ns) {
    Wait& wait = waits_[row];
    wait.ready_ns = max_of(wait.ready_ns, now_ns);
    if (--wait.needs == 0) due_.push({wait.ready_ns + wait.pause_ns, row});
  }

  // What a turn still waits for, together: the processor's cache holds few rows of many columns.
  struct Wait {
    i64 needs = 0;     // how many things
    i64 ready_ns = 0;  // when the last of those that are there came
    i64 pause_ns = 0;  // after the last of all
  };

  Workload workload_;
  Vector<Wait> waits_;  // by row
  Vector<i64> left_;    // unfinished rows by trajectory
  i64 following_ = 0;   // the next trajectory that may start when others end
  i64 ended_ = 0;       // trajectories
  LeastFirst<Due> due_;
};

}  // namespace kvsim
