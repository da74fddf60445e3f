// Many turns on one engine: arrivals, steps, and the clock.
//
// kvsim/backends/engine_kernels.py `simulate` says what happens, one step at a time; here a stretch of steps in which
// nothing but decoding happens is one event.
#pragma once

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "scheduler.hpp"
#include "step_law.hpp"

namespace kvsim {

// kvsim.backends.engine_kernels.Workload says the same, field by field.
struct Workload {
  i64 trajectories = 0;
  const i64* start_ns = nullptr;
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

// One row a turn.
struct Served {
  i64* release_ns = nullptr;
  i64* scheduled_ns = nullptr;
  i64* first_token_ns = nullptr;
  i64* finish_ns = nullptr;
  i64* recompute_ns = nullptr;
  i64* gpu_ns = nullptr;
  i64* cached_tokens = nullptr;
  i64* hittable_tokens = nullptr;
  i64* preemptions = nullptr;
};

struct EngineTotals {
  i64 steps = 0;
  i64 busy_ns = 0;
  i64 end_ns = 0;
  i64 evicted_blocks = 0;
  i64 preemptions = 0;
  i64 peak_blocks = 0;
  i64 unserved = 0;
};

// When turns are released: at a start, or when the last of those they need finishes and the pause is over.
class Arrivals {
 public:
  struct Due {
    i64 ns;
    i64 row;
    bool operator>(const Due& other) const { return ns != other.ns ? ns > other.ns : row > other.row; }
  };

  Arrivals(const Workload& workload, i64 rows)
      : workload_(workload),
        needs_(workload.needs, workload.needs + rows),
        ready_(rows, 0),
        left_(workload.trajectories, 0) {
    for (i64 row = 0; row < rows; ++row) ++left_[workload.trajectory[row]];
    for (i64 t = 0; t < workload.trajectories; ++t) {
      if (workload.start_ns[t] >= 0) start(t, workload.start_ns[t]);
    }
  }

  bool empty() const { return due_.empty(); }
  i64 next_ns() const { return due_.top().ns; }
  Due pop() {
    const Due due = due_.top();
    due_.pop();
    return due;
  }

  void finish(i64 row, i64 now_ns) {
    for (i64 at = workload_.dependants_start[row]; at < workload_.dependants_start[row + 1]; ++at) {
      meet_need(workload_.dependants[at], now_ns);
    }
    if (--left_[workload_.trajectory[row]] == 0) start_next(now_ns);
  }

  // Starts the first trajectory that waits for another one's end; says whether there was one.
  bool start_next(i64 now_ns) {
    while (following_ < workload_.trajectories && workload_.start_ns[following_] >= 0) ++following_;
    if (following_ == workload_.trajectories) return false;
    start(following_++, now_ns);
    return true;
  }

 private:
  void start(i64 trajectory, i64 now_ns) {
    for (i64 at = workload_.roots_start[trajectory]; at < workload_.roots_start[trajectory + 1]; ++at) {
      const i64 row = workload_.roots[at];
      const i64 due_ns = now_ns + workload_.offset_ns[row];
      if (needs_[row] == 0) {
        due_.push({due_ns, row});
      } else {
        meet_need(row, due_ns);
      }
    }
  }

  void meet_need(i64 row, i64 now_ns) {
    ready_[row] = max_of(ready_[row], now_ns);
    if (--needs_[row] == 0) due_.push({ready_[row] + workload_.pause_ns[row], row});
  }

  using Queue = std::priority_queue<Due, std::vector<Due>, std::greater<Due>>;
  Workload workload_;
  std::vector<i64> needs_;
  std::vector<i64> ready_;
  std::vector<i64> left_;  // unfinished rows by trajectory
  i64 following_ = 0;
  Queue due_;
};

// Whole nanoseconds, and a fraction of one in units.
class Clock {
 public:
  explicit Clock(i64 fraction_bits) : bits_(fraction_bits) {}
  i64 ns() const { return ns_; }
  void jump(i64 ns) { ns_ = ns, fraction_ = 0; }
  void run(i64 units) {
    fraction_ += units;
    ns_ += fraction_ >> bits_;
    fraction_ &= (i64{1} << bits_) - 1;
  }
  // Units from now until that instant; more than `most` may be said to be `most`.
  i64 units_until(i64 ns, i64 most) const {
    return ns - ns_ > (most >> bits_) + 1 ? most : ((ns - ns_) << bits_) - fraction_;
  }

 private:
  i64 bits_;
  i64 ns_ = 0;
  i64 fraction_ = 0;
};

// S: Scheduler or GroupScheduler.
template <class S>
class BasicSimulation {
 public:
  BasicSimulation(const Settings& settings, const StepLaw& law, const Contexts& contexts, const Workload& workload,
                  const Served& served)
      : law_(law),
        workload_(workload),
        served_(served),
        usable_blocks_(settings.num_gpu_blocks - 1),
        rows_(contexts.rows),
        scheduler_(settings, contexts),
        arrivals_(workload, contexts.rows),
        clock_(law.fraction_bits) {}

  EngineTotals run() {
    for (;;) {
      receive();
      if (scheduler_.idle()) {
        if (!arrivals_.empty()) {
          clock_.jump(arrivals_.next_ns());
        } else if (!arrivals_.start_next(clock_.ns())) {
          break;
        }
        continue;
      }
      scheduler_.schedule();
      totals_.preemptions += static_cast<i64>(scheduler_.preempted().size());
      if (!scheduler_.work().empty()) {
        step();
      } else if (scheduler_.preempted().empty()) {
        break;
      }  // else the only one that could run preempted itself: no time passes
    }
    totals_.end_ns = clock_.ns();
    totals_.evicted_blocks = scheduler_.pool().evicted();
    totals_.unserved = rows_ - finished_;
    return totals_;
  }

 private:
  void receive() {
    while (!arrivals_.empty() && arrivals_.next_ns() <= clock_.ns()) {
      const Arrivals::Due due = arrivals_.pop();
      served_.release_ns[due.row] = due.ns;
      if (workload_.refused[due.row]) {
        refuse(due);
      } else {
        scheduler_.arrive(due.row, due.ns);
      }
    }
  }

  void refuse(const Arrivals::Due& due) {
    const i64 row = due.row;
    served_.scheduled_ns[row] = served_.first_token_ns[row] = served_.recompute_ns[row] = -1;
    served_.cached_tokens[row] = served_.hittable_tokens[row] = served_.preemptions[row] = -1;
    served_.gpu_ns[row] = 0;
    finish(row, due.ns);
  }

  void finish(i64 row, i64 now_ns) {
    served_.finish_ns[row] = now_ns;
    ++finished_;
    arrivals_.finish(row, now_ns);
  }

  // The scheduled step and, where nothing can happen in between, those after it.
  void step() {
    DecodeStretch stretch;
    i64 tokens = 0, attention = 0, room_in_window = INT64_MAX;
    const std::vector<Work>& work = scheduler_.work();
    chunks_.clear();
    for (const Work& part : work) {
      tokens += part.tokens;
      const i64 context = part.before + 1;
      if (part.tokens == 1 && scheduler_.seat(part.seat).prompt < context) {
        ++stretch.lines;
        stretch.seen += context;
        if (law_.window > 0) {
          stretch.seen_in_window += min_of(context, law_.window);
          if (context < law_.window) {
            ++stretch.within_window;
            room_in_window = min_of(room_in_window, law_.window - context + 1);
          }
        }
      } else {
        attention += law_.chunk(part.before, part.tokens);
        chunks_.push_back(part);
      }
    }
    const i64 in_step = static_cast<i64>(work.size());
    stretch.step = law_.step[tokens] + law_.sequences[in_step] + attention;
    stretch.full = law_.full.decode[stretch.lines];
    stretch.windowed = law_.windowed.decode[stretch.lines];

    i64 steps = 1;
    const bool decoding = stretch.lines == in_step;
    if (decoding) {
      steps = stretch.within_horizon(min_of(scheduler_.steady_steps(), room_in_window));
      if (steps > 1 && !arrivals_.empty() && scheduler_.admits_arrivals()) {
        const i64 longest = stretch.units(steps);
        steps = stretch.steps_until(clock_.units_until(arrivals_.next_ns(), longest), steps);
      }
      if (steps > 1) scheduler_.advance(steps - 1);
    }
    const i64 started_ns = clock_.ns();
    clock_.run(stretch.units(steps));
    const i64 duration_ns = clock_.ns() - started_ns;
    totals_.steps += steps;
    totals_.busy_ns += duration_ns;
    totals_.peak_blocks = max_of(totals_.peak_blocks, usable_blocks_ - scheduler_.least_free());
    share(decoding, tokens, duration_ns);
    if (!decoding) note_prefill(tokens, in_step, started_ns);
    update();
  }

  // Shares the time among the requests of the step. Consecutive steps that decode the same ones are shared as one.
  void share(bool decoding, i64 tokens, i64 duration_ns) {
    const std::vector<Work>& work = scheduler_.work();
    if (!decoding || !same_sharers()) settle();
    if (decoding) {
      if (sharers_.empty()) {
        for (const Work& part : work) sharers_.push_back(scheduler_.seat(part.seat).row);
      }
      shared_ns_ += duration_ns;
      return;
    }
    const i64 token_ns = duration_ns / tokens;
    i64 rest_ns = duration_ns;
    for (const Work& part : work) {
      const i64 share_ns = part.tokens == 1 ? token_ns : duration_ns * part.tokens / tokens;
      scheduler_.seat(part.seat).gpu_ns += share_ns;
      rest_ns -= share_ns;
    }
    scheduler_.seat(work.front().seat).gpu_ns += rest_ns;
  }

  bool same_sharers() {
    const std::vector<Work>& work = scheduler_.work();
    return std::equal(sharers_.begin(), sharers_.end(), work.begin(), work.end(),
                      [&](i64 row, const Work& part) { return scheduler_.seat(part.seat).row == row; });
  }

  void settle() {
    if (sharers_.empty()) return;
    const i64 count = static_cast<i64>(sharers_.size());
    const i64 each_ns = shared_ns_ / count;
    for (const i64 row : sharers_) served_.gpu_ns[row] += each_ns;
    served_.gpu_ns[sharers_.front()] += shared_ns_ - each_ns * count;
    sharers_.clear();
    shared_ns_ = 0;
  }

  void note_prefill(i64 tokens, i64 in_step, i64 started_ns) {
    for (const Work& part : chunks_) {
      auto& request = scheduler_.seat(part.seat);
      if (request.generated > 0) continue;
      if (request.scheduled_ns < 0) request.scheduled_ns = started_ns;
      request.recompute_units += law_.recompute(part.before, part.tokens, request.hittable, tokens, in_step);
    }
  }

  void update() {
    const i64 now_ns = clock_.ns();
    scheduler_.update(
        [&](auto& request) {
          if (request.generated == 1) request.first_token_ns = now_ns;
        },
        [&](auto& request) {
          settle();
          write(request);
          finish(request.row, now_ns);
        });
  }

  void write(const typename S::Request& request) {
    const i64 row = request.row;
    const i64 half = (i64{1} << law_.fraction_bits) / 2;
    served_.scheduled_ns[row] = request.scheduled_ns;
    served_.first_token_ns[row] = request.first_token_ns;
    served_.recompute_ns[row] =
        min_of((request.recompute_units + half) >> law_.fraction_bits, request.first_token_ns - request.scheduled_ns);
    served_.gpu_ns[row] += request.gpu_ns;
    served_.cached_tokens[row] = request.cached;
    served_.hittable_tokens[row] = request.hittable;
    served_.preemptions[row] = request.preemptions;
  }

  StepLaw law_;
  Workload workload_;
  Served served_;
  i64 usable_blocks_;
  i64 rows_;
  i64 finished_ = 0;
  S scheduler_;
  Arrivals arrivals_;
  Clock clock_;
  std::vector<Work> chunks_;  // of the step: those parts that prefill
  std::vector<i64> sharers_;  // rows of the decode stretch under way
  i64 shared_ns_ = 0;
  EngineTotals totals_;
};

using Simulation = BasicSimulation<Scheduler>;
using GroupSimulation = BasicSimulation<GroupScheduler>;

}  // namespace kvsim
