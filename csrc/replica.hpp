// One engine: its scheduler, its clock, and the step under way.
//
// kvsim/backends/engine_kernels.py `begin_step` and `end_step` say what happens, one step at a time; here a stretch of
// steps in which nothing but decoding happens is planned as one, and cut where an arrival could change it.
#pragma once

#include "containers.hpp"
#include "scheduler.hpp"
#include "step_law.hpp"
#include "timeline.hpp"

namespace kvsim {

// One row a turn.
struct Served {
  i64* release_ns = nullptr;
  i64* scheduled_ns = nullptr;
  i64* first_token_ns = nullptr;
  i64* finish_ns = nullptr;
  i64* recompute_ns = nullptr;
  i64* gpu_ns = nullptr;
  i64* held_block_ns = nullptr;
  i64* cached_tokens = nullptr;
  i64* loaded_tokens = nullptr;
  i64* hittable_tokens = nullptr;
  i64* preemptions = nullptr;
  i64* replica = nullptr;

  // `visit(column, before)` in this order; `before` is what stands in every row at first.
  template <class Visit>
  void each_column(Visit&& visit) {
    visit(release_ns, -1);
    visit(scheduled_ns, -1);
    visit(first_token_ns, -1);
    visit(finish_ns, -1);
    visit(recompute_ns, -1);
    visit(gpu_ns, 0);
    visit(held_block_ns, 0);
    visit(cached_tokens, -1);
    visit(loaded_tokens, -1);
    visit(hittable_tokens, -1);
    visit(preemptions, -1);
    visit(replica, -1);
  }
};

struct ReplicaTotals {
  i64 steps = 0;
  i64 busy_ns = 0;
  i64 end_ns = 0;
  i64 evicted_blocks = 0;
  i64 preemptions = 0;
  i64 peak_blocks = 0;
};

// Whole nanoseconds, and a fraction of one in units.
class Clock {
 public:
  KVSIM_FN explicit Clock(i64 fraction_bits) : bits_(fraction_bits) {}
  KVSIM_FN i64 ns() const { return ns_; }
  // The time after so many units more.
  KVSIM_FN i64 after(i64 units) const { return ns_ + ((fraction_ + units) >> bits_); }
  // Waits until that instant.
  KVSIM_FN void wait(i64 ns) {
    if (ns > ns_) ns_ = ns, fraction_ = 0;
  }
  KVSIM_FN void run(i64 units) {
    fraction_ += units;
    ns_ += fraction_ >> bits_;
    fraction_ &= (i64{1} << bits_) - 1;
  }
  // Units from now until that instant; more than `most` may be said to be `most`.
  KVSIM_FN i64 units_until(i64 ns, i64 most) const {
    return ns - ns_ > (most >> bits_) + 1 ? most : ((ns - ns_) << bits_) - fraction_;
  }

 private:
  i64 bits_;
  i64 ns_ = 0;
  i64 fraction_ = 0;
};

// S: Scheduler or GroupScheduler.
template <class S>
class BasicReplica {
 public:
  KVSIM_FN BasicReplica(i64 number, const Settings& settings, const StepLaw& law, const Contexts& contexts,
                        const Chains& chains, const Plan& plan, const Served& served, const Timeline& timeline)
      : number_(number),
        usable_blocks_(settings.num_gpu_blocks - 1),
        async_(settings.async_scheduling != 0),
        law_(law),
        served_(served),
        timeline_(timeline),
        scheduler_(settings, contexts, chains, plan),
        clock_(law.fraction_bits) {}

  static constexpr i64 kNever = INT64_MAX;
  // When the planned steps end; never, if none is under way.
  KVSIM_FN i64 ends_ns() const { return ends_ns_; }
  // When the next step may start that could not yet: blocks are being loaded. Never, if none is awaited.
  KVSIM_FN i64 wakes_ns() const { return wakes_ns_; }
  KVSIM_FN bool free() const { return ends_ns_ == kNever; }
  KVSIM_FN const S& scheduler() const { return scheduler_; }
  KVSIM_FN i64 missing_blocks(i64 row) { return scheduler_.missing_blocks(row); }

  // From now on, what is evicted is written down.
  KVSIM_FN void keep(EvictionLog* log) { scheduler_.keep(log); }

  KVSIM_FN void arrive(i64 row, i64 now_ns) {
    if (steps_ > 1 && scheduler_.admits_arrivals()) plan(steps_until(now_ns));
    served_.replica[row] = number_;
    scheduler_.arrive(row, now_ns);
  }

  // Starts the next step at that instant, and plans those after it that are sure to decode the same requests; if
  // there is anything that can run. With asynchronous scheduling the step after it is decided on now.
  KVSIM_FN void begin(i64 now_ns) {
    const i64 free_blocks = scheduler_.pool().free_blocks();
    if (scheduler_.steps_in_flight() == 0) {
      do {  // where the only one that could run preempts itself, no time passes
        schedule(now_ns);
      } while (scheduler_.work().empty() && !scheduler_.preempted().empty());
    }
    wakes_ns_ = kNever;
    if (scheduler_.steps_in_flight() > 0) {
      clock_.wait(now_ns);
      price();
      if (!decoding_) note_prefill();
      if (async_) schedule(now_ns);
      plan(decoding_ ? stretch_.within_horizon(min_of(scheduler_.steady_steps(), room_in_window_)) : 1);
    }
    const i64 event_ns = scheduler_.next_event_ns();
    if (event_ns >= 0 && steps_ == 0) wakes_ns_ = event_ns;
    if (event_ns >= 0 && steps_ > 1) plan(steps_until(event_ns));
    timeline_.note(now_ns, free_blocks - scheduler_.pool().free_blocks());
  }

  // Ends the planned steps, which brings their tokens; `on_finish(row)` follows each last one.
  template <class OnFinish>
  KVSIM_FN void end(OnFinish&& on_finish) {
    const i64 started_ns = clock_.ns();
    pass(steps_ - 1);
    clock_.run(stretch_.first);
    note_time(1, started_ns);
    ends_ns_ = kNever;
    steps_ = 0;
    const i64 now_ns = clock_.ns();
    const i64 free_blocks = scheduler_.pool().free_blocks();
    if (scheduler_.ends_lines()) settle();
    scheduler_.update(
        now_ns,
        [&](auto& request) {
          if (request.generated == 1) request.first_token_ns = now_ns;
        },
        [&](auto& request) {
          settle();
          write(request);
          on_finish(request.row);
        });
    timeline_.note(now_ns, free_blocks - scheduler_.pool().free_blocks());
  }

  // Ends those of the planned steps that end before that instant, so that the pool is as it is then.
  KVSIM_FN void catch_up(i64 now_ns) {
    const i64 steps = steps_ > 1 ? steps_until(now_ns) - 1 : 0;
    if (steps == 0) return;
    const i64 started_ns = clock_.ns();
    pass(steps);
    note_time(0, started_ns);
    steps_ -= steps;
  }

  KVSIM_FN ReplicaTotals totals() const {
    ReplicaTotals totals = totals_;
    totals.end_ns = clock_.ns();
    totals.evicted_blocks = scheduler_.pool().evicted();
    return totals;
  }

 private:
  KVSIM_FN void schedule(i64 now_ns) {
    scheduler_.schedule(now_ns);
    if (shared_lines_ >= 0 && !scheduler_.dispersed().empty()) {
      sharers_.assign(scheduler_.dispersed().begin(), scheduler_.dispersed().end());
      shared_lines_ = kNoLines;
    }
    totals_.preemptions += static_cast<i64>(scheduler_.preempted().size());
  }

  // What the oldest step in flight takes, and what each step more would.
  KVSIM_ONCE void price() {
    const Step& step = scheduler_.oldest();
    if (!step.joined.empty()) {
      if (shared_lines_ >= 0) settle();
      scheduler_.begin_sharing(step);
    }
    room_in_window_ = INT64_MAX;
    i64 attention = 0;
    i64 lines = step.lines, seen = step.computed + step.lines;  // sequences that decode; the context that they read
    i64 tokens = step.lines;
    for (const Work& part : step.parts) {
      tokens += part.tokens;
      const i64 context = part.before + 1;
      if (part.tokens == 1 && scheduler_.seat(part.seat).prompt < context) {
        ++lines;
        seen += context;
      } else {
        attention += law_.chunk(part.before, part.tokens);
      }
    }
    const i64 sequences = step.size();
    tokens_ = tokens;
    decoding_ = lines == sequences;
    const i64 tiles = decoding_ ? 0 : law_.tile_keys * lines;
    const i64 full = decoding_ ? law_.full.decode[lines] : law_.full.mixed[lines];
    stretch_.growth = full * lines;
    stretch_.first = law_.step[tokens] + law_.sequences[sequences] + attention + full * (seen + tiles);
    if (law_.window == 0) return;
    const i64 windowed = decoding_ ? law_.windowed.decode[lines] : law_.windowed.mixed[lines];
    stretch_.first += windowed * tiles;
    price_windows(step, windowed);
  }

  // What layers with windows add for the sequences that decode.
  KVSIM_FN void price_windows(const Step& step, i64 each) {
    scheduler_.each_part(step, [&](const Work& part) {
      const i64 context = part.before + 1;
      if (part.tokens > 1 || context <= scheduler_.seat(part.seat).prompt) return;
      stretch_.first += each * min_of(context, law_.window);
      if (context >= law_.window) return;
      stretch_.growth += each;
      room_in_window_ = min_of(room_in_window_, law_.window - context + 1);
    });
  }

  KVSIM_FN void plan(i64 steps) {
    steps_ = steps;
    ends_ns_ = clock_.after(stretch_.units(steps));
  }

  // The fewest planned steps that end at or after that instant.
  KVSIM_FN i64 steps_until(i64 now_ns) const {
    return stretch_.steps_until(clock_.units_until(now_ns, stretch_.units(steps_)), steps_);
  }

  // Runs so many of the planned steps, all but the last one's update.
  KVSIM_FN void pass(i64 steps) {
    if (steps == 0) return;
    scheduler_.advance(
        steps, [&](i64 step) { return clock_.after(stretch_.units(step)); },
        [&](i64 at_ns, i64 blocks) { timeline_.note(at_ns, blocks); });
    clock_.run(stretch_.units(steps));
    stretch_.skip(steps);
    totals_.steps += steps;
  }

  KVSIM_FN void note_time(i64 steps, i64 started_ns) {
    totals_.steps += steps;
    totals_.busy_ns += clock_.ns() - started_ns;
    totals_.peak_blocks = max_of(totals_.peak_blocks, usable_blocks_ - scheduler_.least_free());
    if (decoding_) share_decode(clock_.ns() - started_ns);
  }

  // Shares the time of decode steps among their requests. Consecutive ones that decode the same are shared as one.
  KVSIM_FN void share_decode(i64 duration_ns) {
    const Step& step = scheduler_.oldest();
    if (!same_sharers(step)) {
      settle();
      if (step.parts.empty()) {
        shared_lines_ = step.version;
        shared_count_ = step.lines;
        shared_first_ = scheduler_.seat(scheduler_.first_of(step)).row;
      } else {
        scheduler_.each_part(step, [&](const Work& part) { sharers_.push_back(scheduler_.seat(part.seat).row); });
      }
    }
    shared_ns_ += duration_ns;
  }

  KVSIM_FN bool same_sharers(const Step& step) const {
    if (shared_lines_ >= 0) return step.parts.empty() && step.version == shared_lines_;
    if (sharers_.empty() || step.size() != static_cast<i64>(sharers_.size())) return false;
    std::size_t place = 0;
    bool same = true;
    scheduler_.each_part(step, [&](const Work& part) { same &= scheduler_.seat(part.seat).row == sharers_[place++]; });
    return same;
  }

  KVSIM_FN void settle() {
    if (shared_lines_ >= 0 || !sharers_.empty()) settle_shares();
  }

  KVSIM_FN void settle_shares() {
    const i64 count = shared_lines_ >= 0 ? shared_count_ : static_cast<i64>(sharers_.size());
    const i64 each_ns = shared_ns_ / count;
    if (shared_lines_ >= 0) {
      scheduler_.share(each_ns);
    } else {
      for (const i64 row : sharers_) served_.gpu_ns[row] += each_ns;
      shared_first_ = sharers_.front();
    }
    served_.gpu_ns[shared_first_] += shared_ns_ - each_ns * count;
    sharers_.clear();
    shared_lines_ = kNoLines;
    shared_ns_ = 0;
  }

  // Of the step that starts now, as long as its requests have their seats; its time is shared by tokens.
  KVSIM_ONCE void note_prefill() {
    settle();
    const Step& step = scheduler_.oldest();
    const i64 now_ns = clock_.ns(), tokens = tokens_, sequences = step.size();
    const i64 duration_ns = clock_.after(stretch_.first) - now_ns;
    const i64 token_ns = duration_ns / tokens;
    i64 rest_ns = duration_ns - token_ns * step.lines;
    if (step.lines > 0) scheduler_.share(token_ns);
    for (const Work& part : step.parts) {
      auto& request = scheduler_.seat(part.seat);
      const i64 share_ns = part.tokens == 1 ? token_ns : duration_ns * part.tokens / tokens;
      request.gpu_ns += share_ns;
      rest_ns -= share_ns;
      if (request.generated > 0) continue;
      if (request.scheduled_ns < 0) request.scheduled_ns = now_ns;
      request.recompute_units += law_.recompute(part.before, part.tokens, request.hittable, tokens, sequences);
    }
    scheduler_.seat(scheduler_.first_of(step)).gpu_ns += rest_ns;
  }

  KVSIM_FN void write(const typename S::Request& request) {
    const i64 row = request.row;
    const i64 half = (i64{1} << law_.fraction_bits) / 2;
    served_.finish_ns[row] = clock_.ns();
    served_.scheduled_ns[row] = request.scheduled_ns;
    served_.first_token_ns[row] = request.first_token_ns;
    served_.recompute_ns[row] =
        min_of((request.recompute_units + half) >> law_.fraction_bits, request.first_token_ns - request.scheduled_ns);
    served_.gpu_ns[row] += request.gpu_ns;
    served_.held_block_ns[row] = request.held_block_ns;
    served_.cached_tokens[row] = request.cached;
    served_.loaded_tokens[row] = request.loaded;
    served_.hittable_tokens[row] = request.hittable;
    served_.preemptions[row] = request.preemptions;
  }

  i64 number_;
  i64 usable_blocks_;
  bool async_;
  StepLaw law_;
  Served served_;
  Timeline timeline_;
  S scheduler_;
  Clock clock_;  // stands at the start of the step under way
  i64 ends_ns_ = kNever;
  i64 wakes_ns_ = kNever;
  i64 steps_ = 0;  // planned, the scheduled one among them
  DecodeStretch stretch_;
  i64 tokens_ = 0;
  i64 room_in_window_ = 0;
  bool decoding_ = false;  // all that the step does

  // Decode steps whose time is still to be shared: among lines of that version, or else those rows.
  static constexpr i64 kNoLines = -1;
  i64 shared_lines_ = kNoLines;
  i64 shared_count_ = 0;
  i64 shared_first_ = 0;  // row that has the remainder
  Vector<i64> sharers_;
  i64 shared_ns_ = 0;
  ReplicaTotals totals_;
};

}  // namespace kvsim
