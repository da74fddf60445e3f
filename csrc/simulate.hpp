// Many turns on the replicas of an engine.
//
// kvsim/backends/engine_kernels.py `simulate` says what happens at each instant, and in which order.
#pragma once

#include "arrivals.hpp"
#include "containers.hpp"
#include "replica.hpp"
#include "router.hpp"

namespace kvsim {

struct Fleet {
  i64 replicas = 1;
  i64 router = kRoundRobin;
};

// S: Scheduler or GroupScheduler.
template <class S>
class BasicSimulation {
 public:
  using Replica = BasicReplica<S>;

  // `timeline` is that of the first replica; those of the others follow it.
  KVSIM_FN BasicSimulation(const Settings& settings, const StepLaw& law, const Contexts& contexts,
                           const Workload& workload, const Plan& plan, const Fleet& fleet, const Timeline& timeline,
                           const Served& served)
      : workload_(workload),
        served_(served),
        chains_(contexts),
        arrivals_(workload, contexts.rows),
        router_(fleet.router, workload.trajectories) {
    Timeline own = timeline;
    for (i64 number = 0; number < fleet.replicas; ++number) {
      replicas_.emplace_back(make_owner<Replica>(number, settings, law, contexts, chains_, plan, served, own));
      own.level += own.bins;
      own.partial += own.bins;
    }
  }

  // What each replica evicts is written down, here.
  KVSIM_FN void keep(Vector<EvictionLog>& logs) {
    logs.resize(replicas_.size());
    for (std::size_t number = 0; number < logs.size(); ++number) replicas_[number]->keep(&logs[number]);
  }
  KVSIM_FN const Chains& chains() const { return chains_; }

  KVSIM_FN Vector<ReplicaTotals> run() {
    i64 now_ns = 0;
    for (i64 next_ns = arrivals_.next_ns();;) {
      if (next_ns == Replica::kNever) {
        if (!arrivals_.start_next(now_ns)) break;
        next_ns = arrivals_.next_ns();
        continue;
      }
      now_ns = next_ns;
      for (const Owner<Replica>& replica : replicas_) {
        if (replica->ends_ns() == now_ns) replica->end([&](i64 row) { arrivals_.finish(row, now_ns); });
      }
      while (arrivals_.next_ns() <= now_ns) receive(arrivals_.pop());
      next_ns = arrivals_.next_ns();
      for (const Owner<Replica>& replica : replicas_) {
        if (replica->free() && !replica->scheduler().idle()) replica->begin(now_ns);
        next_ns = min_of(next_ns, min_of(replica->ends_ns(), replica->wakes_ns()));
      }
    }
    Vector<ReplicaTotals> totals;
    for (const Owner<Replica>& replica : replicas_) totals.push_back(replica->totals());
    return totals;
  }

 private:
  KVSIM_FN void receive(const Due& due) {
    served_.release_ns[due.row] = due.ns;
    if (workload_.refused[due.row]) {
      served_.finish_ns[due.row] = due.ns;
      arrivals_.finish(due.row, due.ns);
    } else {
      const i64 replica = router_.route(replicas_, workload_.trajectory[due.row], due.row, due.ns);
      replicas_[static_cast<std::size_t>(replica)]->arrive(due.row, due.ns);
    }
  }

  Workload workload_;
  Served served_;
  Chains chains_;
  Arrivals arrivals_;
  Vector<Owner<Replica> > replicas_;
  Router router_;
};

using Simulation = BasicSimulation<Scheduler>;
using GroupSimulation = BasicSimulation<GroupScheduler>;

}  // namespace kvsim
