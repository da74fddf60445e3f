// vLLM V1's scheduler: who runs in the next step, and how many tokens.
//
// The rules are those of kvsim/backends/engine_kernels.py, which follows vLLM 0.32's Scheduler.schedule and
// KVCacheManager.allocate_slots; the two agree in every decision.
#pragma once

#include "block_pool.hpp"
#include "containers.hpp"
#include "decoders.hpp"
#include "plan.hpp"
#include "pool.hpp"
#include "seat_list.hpp"
#include "tray.hpp"

namespace kvsim {

template <class Holding>
struct BasicRequest {
  // What every step touches.
  i64 prompt = 0;
  i64 output = 0;
  i64 computed = 0;   // tokens, those of the steps in flight among them; 0: waiting
  i64 generated = 0;  // tokens that have come
  i64 settled = 0;    // of the computed ones, those of steps that have ended
  Holding holding;
  i64 quiet = 0;          // slots up to which it needs neither a block nor a key
  i64 gpu_ns = 0;         // for the one who keeps time
  i64 held_block_ns = 0;  // whole once the blocks are given back: until then, less what is still held since release
  i64 row = 0;
  // The rest.
  i64 priority = 0;
  i64 arrival = 0;    // running number
  i64 admission = 0;  // running number of the last one
  i64 cached = -1;    // tokens hit at the first admission
  i64 loaded = 0;     // of these, tokens from the host tier
  i64 ready_ns = -1;  // when its blocks are loaded, -1: nothing is
  i64 preemptions = 0;
  i64 release_ns = 0;
  i64 scheduled_ns = -1;
  i64 first_token_ns = 0;
  i64 hittable = 0;
  i64 recompute_units = 0;

  KVSIM_FN i64 tokens() const { return prompt + generated; }
  // So many blocks are its own from then on. Modulo 2^64: what is still held may be more than in the end it was.
  KVSIM_FN void note_blocks(i64 blocks, i64 at_ns) {
    less_block_ns(static_cast<std::uint64_t>(blocks) * static_cast<std::uint64_t>(at_ns - release_ns));
  }
  KVSIM_FN void less_block_ns(std::uint64_t block_ns) {
    held_block_ns = static_cast<i64>(static_cast<std::uint64_t>(held_block_ns) - block_ns);
  }
  KVSIM_FN bool served_after(const BasicRequest& other) const {
    return priority != other.priority ? priority > other.priority : arrival > other.arrival;
  }
};

// What a step computes of one request.
struct Work {
  i32 seat;
  i32 tokens;
  i64 before;  // computed tokens before the step
  KVSIM_FN Work(i32 seat, i64 before, i64 tokens) : seat(seat), tokens(static_cast<i32>(tokens)), before(before) {}
};

// What a step computes: a token for each of the lines, which come first, and the parts of other requests.
struct Step {
  i64 lines = 0;     // of the requests in Decoders
  i64 computed = 0;  // tokens that these had before the step
  i64 round = 0;
  i64 version = 0;   // of the lines
  Tray<i32> joined;  // seats of those of them that are new
  Tray<Work> parts;

  KVSIM_FN i64 size() const { return lines + static_cast<i64>(parts.size()); }
  KVSIM_FN bool empty() const { return size() == 0; }
  KVSIM_FN void clear() {
    lines = computed = 0;
    joined.clear();
    parts.clear();
  }
};

// P: Pool or BlockPool.
template <class P>
class BasicScheduler {
 public:
  using Request = BasicRequest<typename P::Holding>;

  KVSIM_FN BasicScheduler(const Settings& settings, const Contexts& contexts, const Chains& chains, const Plan& plan)
      : settings_(settings),
        block_(settings.block_size),
        contexts_(contexts),
        plan_(plan),
        chains_(chains),
        host_(plan.host == kNoHost ? nullptr : make_owner<HostTier>(chains, plan.host_blocks)),
        pool_(chains, settings, plan.next_use_ns != nullptr, plan.host == kOnEviction ? host_.get() : nullptr),
        seats_(settings.max_num_seqs),
        running_(settings.max_num_seqs),
        decoders_(block_, settings.max_num_seqs),
        running_on_(chains.shapes.size()),
        line_on_(chains.shapes.size(), kNone) {
    offer_seats(0);
  }
  BasicScheduler(const BasicScheduler&) = delete;  // the pool points to seats
  BasicScheduler& operator=(const BasicScheduler&) = delete;

  // From now on, what is evicted is written down.
  KVSIM_FN void keep(EvictionLog* log) {
    log_ = log;
    pool_.keep(log);
  }

  // A request joins the waiting queue. What the turn above still holds then stays held until it is admitted.
  KVSIM_FN void arrive(i64 row, i64 now_ns) {
    if (empty_seats_.empty()) add_seats();
    const i32 seat = empty_seats_.back();
    empty_seats_.pop_back();
    Request& request = seats_[seat] = Request();
    request.row = row;
    request.prompt = contexts_.prompt[row];
    request.output = contexts_.output[row];
    request.priority = contexts_.priority[row];
    request.hittable = contexts_.hittable[row];
    request.arrival = arrived_++;
    request.release_ns = now_ns;
    request.holding = pool_.holding_for(chains_.of_row[row], request.prompt);
    prompt_blocks_ += blocks_for(request.prompt);
    enqueue(seat, false);
    if (!pauses_.empty()) hold_on(contexts_.above[row], now_ns);
  }

  // Decides what the next step computes: work(), preempted(). At most one step may be in flight.
  KVSIM_FN void schedule(i64 now_ns) {
    now_ns_ = now_ns;
    work_ = &steps_[oldest_ ^ in_flight_];
    work_->clear();
    preempted_.clear();
    dispersed_.clear();
    admitted_ = 0;
    loading_ = 0;
    while (!pauses_.empty() && pauses_.begin()->first.until_ns <= now_ns) let_go_first();
    i64 budget = settings_.max_num_batched_tokens;
    const i64 threshold = settings_.long_prefill_token_threshold;
    const i64 longest = threshold > 0 && unfinished() > 1 ? threshold : budget;  // vLLM lets a lone request have it all
    schedule_lines(budget, longest);
    token_since_ = 0;
    if (others_ != kNone) schedule_running(budget, longest);
    if (!waiting_.empty() && preempted_.empty()) admit(budget, longest);
    if (!work_->empty()) ++in_flight_;
    least_free_ = pool_.free_blocks();
  }

  // Ends the oldest step in flight. `on_token(request)` follows each token, `on_finish(request)` the last one; blocks
  // are free then.
  template <class OnToken, class OnFinish>
  KVSIM_FN void update(i64 now_ns, OnToken&& on_token, OnFinish&& on_finish) {
    if (in_flight_ == 0) return;
    now_ns_ = now_ns;
    const Step& ended = steps_[oldest_];
    const bool async = settings_.async_scheduling;
    oldest_ ^= 1;
    --in_flight_;
    token_since_ = 1;
    if (ended.lines > 0) decoders_.end();
    while (decoders_.any_ends()) end_line(on_finish);
    for (const Work& work : ended.parts) {
      Request& request = seats_[work.seat];
      const i64 computed = work.before + work.tokens;
      request.settled = computed;
      if (computed < request.tokens()) continue;
      if (async && request.computed == 0) {
        give_token_in_queue(work.seat, on_token, on_finish);
        continue;
      }
      request.generated += 1;
      on_token(request);
      if (async && computed > request.quiet) give_keys(request, computed);
      if (request.generated < request.output) continue;
      leave(work.seat);
      finish(work.seat, on_finish);
    }
  }

  // How many steps from the oldest in flight on, itself included, are sure to run the same requests, one token each,
  // and so are those scheduled until the last of them ends. What may end this, arrivals where admits_arrivals() and
  // next_event_ns(), is the caller's to watch.
  KVSIM_FN i64 steady_steps() const {
    const Step& oldest = steps_[oldest_];
    if (!preempted_.empty() || admitted_ > 0) return 1;
    if (work_->size() + loading_ != running_.size()) return 1;
    if (head_may_run_soon() || head_may_load_less()) return 1;
    if (in_flight_ == 2 && !same_requests(oldest, *work_)) return 1;
    i64 steps = oldest.lines > 0 ? decoders_.rounds_to_end() : INT64_MAX;
    for (const Work& work : oldest.parts) {
      const Request& request = seats_[work.seat];
      if (work.before < request.prompt || work.before + 1 != request.tokens()) return 1;
      steps = min_of(steps, request.output - request.generated);
    }
    steps -= in_flight_ - 1;  // who ends with the step after is not scheduled beside it
    if ((block_.filled_by(steps) + 1) * oldest.size() * pool_.groups() <= pool_.free_blocks()) return steps;
    while (steps > 1 && blocks_for_more(steps - 1) > pool_.free_blocks()) steps = 1 + (steps - 1) / 2;
    return steps;
  }

  // Ends `more` of the steady steps, and schedules as many. `end_of(n)` says when the n-th of them ends and the one
  // after it starts; `on_blocks(ns, count)` follows where so many blocks more are in use.
  template <class EndOf, class OnBlocks>
  KVSIM_FN void advance(i64 more, EndOf&& end_of, OnBlocks&& on_blocks) {
    if (log_ == nullptr) {
      advance_by<false>(more, end_of, on_blocks);
    } else {
      advance_and_tell(more, end_of, on_blocks);
    }
  }

  // When blocks are loaded or held no longer, as of the last schedule(); -1: nothing is to come by itself.
  KVSIM_FN i64 next_event_ns() const {
    i64 next_ns = pauses_.empty() ? kForever : min_of(pauses_.begin()->first.until_ns, kForever);
    if (host_ != nullptr) {
      for (i32 seat = others_; seat != kNone; seat = running_.after(seat)) {
        const i64 ready_ns = seats_[seat].ready_ns;
        if (ready_ns >= 0) next_ns = min_of(next_ns, ready_ns);
      }
    }
    return next_ns == kForever ? -1 : next_ns;
  }

  // Whether an arrival could run in the next step.
  KVSIM_FN bool admits_arrivals() const {
    if (settings_.priority) return true;
    return waiting_.empty() && running_.size() < settings_.max_num_seqs;
  }

  KVSIM_FN const Step& work() const { return *work_; }             // of the step scheduled last
  KVSIM_FN const Step& oldest() const { return steps_[oldest_]; }  // of the one that ends next
  KVSIM_FN i64 steps_in_flight() const { return in_flight_; }
  // All that the step computes, in order of service: `on_part(work)`.
  template <class OnPart>
  KVSIM_FN void each_part(const Step& step, OnPart&& on_part) const {
    if (step.lines > 0) each_line(step.round, [&](i32 seat, i64 before) { on_part(Work(seat, before, 1)); });
    for (const Work& part : step.parts) on_part(part);
  }
  // Who comes first in it.
  KVSIM_FN i32 first_of(const Step& step) const {
    if (step.lines == 0) return step.parts.front().seat;
    i32 seat = running_.first();
    while (!decoders_.takes_part(seat, step.round)) seat = running_.after(seat);
    return seat;
  }

  // Who keeps time shares that of the lines by what each of them has, from the step on in which it joined.
  KVSIM_FN void share(i64 each_ns) { decoders_.share(each_ns); }
  KVSIM_FN void begin_sharing(const Step& step) {
    for (const i32 seat : step.joined) decoders_.begin_sharing(seat);
  }
  // Whether the end of the oldest step is the end of a line.
  KVSIM_FN bool ends_lines() const { return steps_[oldest_].lines > 0 && decoders_.rounds_to_end() == 1; }
  // Who was a line in the step that ended last and is none any more since the last schedule(): rows.
  KVSIM_FN const Tray<i64>& dispersed() const { return dispersed_; }

  KVSIM_FN const Tray<i64>& preempted() const { return preempted_; }
  KVSIM_FN Request& seat(i32 seat) { return seats_[seat]; }
  KVSIM_FN const Request& seat(i32 seat) const { return seats_[seat]; }
  KVSIM_FN const SeatList& running() const { return running_; }
  KVSIM_FN i64 waiting() const { return static_cast<i64>(waiting_.size()); }
  KVSIM_FN bool idle() const { return running_.empty() && waiting_.empty(); }
  KVSIM_FN const P& pool() const { return pool_; }
  // The fewest free blocks after the scheduling of the last step and of those it was advanced by.
  KVSIM_FN i64 least_free() const { return least_free_; }

  // For routers: how many requests are unfinished, the blocks of their prompts, and what a turn would have to compute.
  KVSIM_FN i64 unfinished() const { return waiting() + running_.size(); }
  KVSIM_FN i64 prompt_blocks() const { return prompt_blocks_; }
  KVSIM_FN i64 missing_blocks(i64 row) {
    const i64 prompt = contexts_.prompt[row];
    auto holding = pool_.holding_for(chains_.of_row[row], prompt);
    return blocks_for(prompt) - hits(holding, block_.filled_by(prompt - 1));
  }

 private:
  KVSIM_FN i64 blocks_for(i64 tokens) const { return block_.for_tokens(tokens); }

  // Blocks for so many tokens of the request, and keys for those that known tokens fill.
  KVSIM_FN void grow(Request& request, i64 slots) {
    typename P::Holding& holding = request.holding;
    if (slots > block_.tokens_in(holding.blocks())) pool_.allocate(holding, blocks_for(slots));
    give_keys(request, min_of(slots, request.tokens()));
  }

  KVSIM_FN void give_keys(Request& request, i64 tokens) {
    const i64 full = block_.filled_by(tokens);
    if (full > request.holding.keyed && !decoders_.empty()) tell_keys_before(request.holding, full);
    give_own_keys(request, full);
  }

  // Of its first full blocks.
  KVSIM_FN void give_own_keys(Request& request, i64 full) {
    typename P::Holding& holding = request.holding;
    if (full > holding.keyed) pool_.give_keys(holding, full);
    if constexpr (P::kStepwise) return;  // windows may pass a block at any step
    request.quiet = min_of(block_.tokens_in(holding.blocks()), block_.tokens_in(holding.keyed + 1) - 1);
  }

  // Counts so many blocks as the request's from now on.
  KVSIM_FN void note_blocks(Request& request, i64 blocks) const { request.note_blocks(blocks, now_ns_); }
  // What the request holds it holds until now.
  KVSIM_FN void note_held(Request& request) const { note_blocks(request, -request.holding.in_use()); }

  // Gives back what windows have passed; the step in flight still reads what it began with.
  KVSIM_FN void pass(Request& request) {
    const i64 held = request.holding.in_use();
    pool_.pass(request.holding, request.settled);
    note_blocks(request, request.holding.in_use() - held);
  }

  // So many decode steps of one request.
  KVSIM_FN void move(Work& work, Request& request, i64 steps) {
    request.computed += steps;
    request.settled += steps;
    request.generated += steps;
    work.before += steps;
    if (request.computed <= request.quiet) return;
    pool_.pass(request.holding, request.settled);
    grow(request, request.computed);
  }

  // Who takes which block is told step by step.
  template <class EndOf, class OnBlocks>
  KVSIM_FN KVSIM_RARE void advance_and_tell(i64 more, EndOf& end_of, OnBlocks& on_blocks) {
    for (i64 step = 1; step <= more; ++step) advance_by<true>(1, [&](i64) { return end_of(step); }, on_blocks);
  }

  template <bool kTell, class EndOf, class OnBlocks>
  KVSIM_FN void advance_by(i64 more, EndOf&& end_of, OnBlocks&& on_blocks) {
    if constexpr (P::kStepwise) {
      for (i64 step = 1; step <= more; ++step) {
        const i64 free_blocks = pool_.free_blocks();
        for (Work& work : work_->parts) {
          Request& request = seats_[work.seat];
          const i64 held = request.holding.in_use();
          if (kTell) log_->taken_by(request.row, end_of(step));
          move(work, request, 1);
          const i64 blocks = request.holding.in_use() - held;
          if (blocks != 0) request.note_blocks(blocks, end_of(step));
        }
        if (free_blocks != pool_.free_blocks()) on_blocks(end_of(step), free_blocks - pool_.free_blocks());
        least_free_ = min_of(least_free_, pool_.free_blocks());
      }
    } else {
      if (work_->lines > 0) advance_lines<kTell>(more, end_of, on_blocks);
      for (Work& work : work_->parts) {
        Request& request = seats_[work.seat];
        const i64 held = block_.tokens_in(request.holding.blocks());
        for (i64 step = held - request.computed + 1; step <= more; step += block_.tokens()) {
          const i64 at_ns = end_of(step);
          request.note_blocks(1, at_ns);
          on_blocks(at_ns, 1);
        }
        if (kTell) log_->taken_by(request.row, end_of(1));
        move(work, request, more);
      }
      least_free_ = pool_.free_blocks();
    }
    if (in_flight_ < 2) return;
    for (Work& work : steps_[oldest_].parts) work.before += more;
  }

  KVSIM_FN static bool same_requests(const Step& one, const Step& other) {
    return one.lines == other.lines && (one.lines == 0 || one.version == other.version) &&
           algorithms::equal(one.parts.begin(), one.parts.end(), other.parts.begin(), other.parts.end(),
                             [](const Work& a, const Work& b) { return a.seat == b.seat; });
  }

  // ---- Lines: the requests in Decoders, which are the first of the running ones ----

  // A token for each of them, if there is room for all.
  KVSIM_FN void schedule_lines(i64& budget, i64 longest) {
    if constexpr (!P::kStepwise) {
      while (decoders_.any_leaves()) {
        tell(decoders_.next_to_leave());
        decoders_.leave();
      }
      join_lines();
      if (decoders_.empty()) return;
      const i64 lines = decoders_.lines();
      if (lines > budget || may_lack_blocks(longest)) {
        disperse();
        return;
      }
      if (lines == 0) return;
      work_->lines = lines;
      work_->computed = decoders_.computed();
      work_->round = decoders_.scheduled();
      work_->version = decoders_.version();
      log_ == nullptr ? pool_.take(decoders_.takes()) : take_and_tell(now_ns_);
      decoders_.schedule(now_ns_);
      budget -= lines;
    }
  }

  KVSIM_FN void join_lines() {
    for (; others_ != kNone; others_ = running_.after(others_)) {
      const i32 seat = others_;
      const i64 rounds = rounds_of(seats_[seat]);
      const i32 chain = seats_[seat].holding.chain;
      if (rounds == 0 || line_on_[chain] != kNone) return;
      decoders_.join(seat, seats_[seat].admission, seats_[seat].computed, rounds);
      line_on_[chain] = seat;
      work_->joined.push_back(seat);
    }
  }

  // The tokens that a request is still to decode, one in each step from now on; 0: it does something else now.
  KVSIM_FN static i64 rounds_of(const Request& request) {
    const i64 missing = request.tokens() - request.computed;
    if (missing > 1 || request.computed < request.prompt || request.ready_ns >= 0) return 0;
    return request.output - request.generated - (missing == 0 ? 1 : 0);  // 0: the step in flight brings one
  }

  // Whether running requests could find too few blocks free, so that lines are not just taken along.
  KVSIM_FN bool may_lack_blocks(i64 longest) const {
    i64 blocks = decoders_.takes();
    for (i32 seat = settings_.priority ? others_ : kNone; seat != kNone; seat = running_.after(seat)) {
      const Request& request = seats_[seat];
      const i64 count = min_of(max_of(request.tokens() - request.computed, 1), longest);
      blocks += pool_.takes(request.holding, blocks_for(request.computed + count));
    }
    return blocks > pool_.free_blocks();
  }

  // `on_line(seat, computed tokens before)` for those who take part in a round.
  template <class OnLine>
  KVSIM_FN void each_line(i64 round, OnLine&& on_line) const {
    for (i32 seat = running_.first(); seat != others_; seat = running_.after(seat)) {
      if (decoders_.takes_part(seat, round)) on_line(seat, decoders_.computed_before(seat, round));
    }
  }

  // A line's request as it is now.
  KVSIM_FN void tell(i32 seat) {
    Request& request = seats_[seat];
    const Decoders::Progress progress = decoders_.tell(seat);
    request.computed += progress.scheduled;
    request.generated += progress.ended;
    request.settled += progress.ended;
    if constexpr (!P::kStepwise) request.holding.plain += static_cast<i32>(progress.blocks);
    request.less_block_ns(progress.taken_ns -
                          static_cast<std::uint64_t>(progress.blocks) * static_cast<std::uint64_t>(request.release_ns));
  }

  // Its keys, too, as of when it was scheduled last: for tokens known by then.
  KVSIM_FN void tell_keys(i32 seat) {
    tell(seat);
    const Request& request = seats_[seat];
    const i64 since = decoders_.has_left(seat) ? 1 : token_since_;
    give_own_keys(seats_[seat], block_.filled_by(min_of(request.computed, request.tokens() - since)));
  }

  template <class OnFinish>
  KVSIM_FN void end_line(OnFinish& on_finish) {
    const i32 seat = decoders_.next_to_end();
    tell(seat);
    if (!decoders_.first_has_left()) decoders_.leave();
    Request& request = seats_[seat];
    give_own_keys(request, block_.filled_by(request.computed));
    line_on_[request.holding.chain] = kNone;
    request.gpu_ns += decoders_.shares(seat);
    decoders_.remove();
    running_.remove(seat);
    finish(seat, on_finish);
  }

  // The lines become requests like others; steps in flight, too.
  KVSIM_FN KVSIM_LONG_WAY void disperse() {
    const i64 last_ended = decoders_.ended() - 1;
    for (i64 number = 0; number < in_flight_; ++number) {
      Step& step = steps_[oldest_ ^ number];
      if (step.lines == 0) continue;
      Tray<Work> parts;
      each_part(step, [&](const Work& part) { parts.push_back(part); });
      step.parts = std::move(parts);
      step.lines = 0;
    }
    for (i32 seat = running_.first(); seat != others_; seat = running_.after(seat)) {
      if (decoders_.takes_part(seat, last_ended)) dispersed_.push_back(seats_[seat].row);
      tell_keys(seat);
      line_on_[seats_[seat].holding.chain] = kNone;
      seats_[seat].gpu_ns += decoders_.shares(seat);
    }
    decoders_.disperse();
    others_ = running_.first();
    work_->joined.clear();
  }

  template <bool kTell, class EndOf, class OnBlocks>
  KVSIM_FN void advance_lines(i64 more, EndOf& end_of, OnBlocks& on_blocks) {
    if constexpr (kTell) take_and_tell(end_of(1));
    const i64 blocks = decoders_.advance(more, end_of, on_blocks);
    if constexpr (!kTell) pool_.take(blocks);
    for (i64 number = 0; number < in_flight_; ++number) {
      Step& step = steps_[oldest_ ^ number];
      step.round += more;
      step.computed += more * step.lines;
    }
  }

  // The blocks that the next round of the lines takes, one by one.
  KVSIM_FN KVSIM_RARE void take_and_tell(i64 at_ns) {
    for (i32 seat = running_.first(); seat != others_; seat = running_.after(seat)) {
      if (!decoders_.takes_block(seat)) continue;
      log_->taken_by(seats_[seat].row, at_ns);
      pool_.take(1);
    }
  }

  // How many of a context's first `most` blocks are known.
  KVSIM_FN i64 hits(typename P::Holding& holding, i64 most) {
    if (!decoders_.empty()) tell_keys_before(holding, most);
    return pool_.hits(holding, most);
  }

  // Lines that write what a context has among its first `most` blocks get their keys before others get or use them.
  KVSIM_ONCE void tell_keys_before(const typename P::Holding& holding, i64 most) {
    for (i32 chain = holding.chain; chain != kNone && holding.keyed < most;) {
      const i32 line = line_on_[chain];
      if (line != kNone && seats_[line].holding.keyed < most) tell_keys(line);
      const ChainShape& shape = chains_.shapes[chain];
      most = min_of(most, shape.start);
      chain = shape.above;
    }
  }

  // ---- The others ----

  KVSIM_ONCE void schedule_running(i64& budget, i64 longest) {
    for (i32 seat = others_; seat != kNone && budget > 0; seat = running_.after(seat)) {
      Request& request = seats_[seat];
      if (host_ != nullptr && still_loads(request)) continue;
      const i64 known = request.tokens();
      i64 missing = known - request.computed;
      if (missing == 0) {  // the step in flight brings a token
        if (request.generated + 1 == request.output) continue;
        missing = 1;
      }
      const i64 count = min_of(min_of(missing, longest), budget);
      const i64 slots = request.computed + count;
      const bool quiet = slots <= request.quiet;
      if (!quiet) pass(request);
      if (!quiet && slots > block_.tokens_in(request.holding.blocks())) {
        const i64 blocks = blocks_for(slots);
        while (pool_.takes(request.holding, blocks) > pool_.free_blocks()) {
          if (!pauses_.empty()) {
            let_go_first();
            continue;
          }
          const i32 victim = preemption_victim();
          budget += unschedule(victim);
          preempt(victim);
          if (victim == seat) return;
        }
        note_blocks(request, pool_.takes(request.holding, blocks));
        if (log_ != nullptr) log_->taken_by(request.row, now_ns_);
        pool_.allocate(request.holding, blocks);
      }
      work_->parts.push_back(Work(seat, request.computed, count));
      request.computed = slots;
      if (!quiet) give_keys(request, min_of(slots, known));
      budget -= count;
    }
  }

  KVSIM_ONCE void admit(i64 budget, i64 longest) {
    while (!waiting_.empty() && budget > 0 && running_.size() < settings_.max_num_seqs) {
      const i32 seat = waiting_.front();
      Request& request = seats_[seat];
      const i64 total = request.tokens();
      const i64 most = block_.filled_by(total - 1);
      const i64 found = hits(request.holding, most);
      const i64 stored = stored_hits(request, found);
      const i64 cached = block_.tokens_in(found + stored);
      i64 count = stored == 0 ? min_of(total - cached, longest) : 0;  // loading comes first
      if (count > budget && !settings_.enable_chunked_prefill) return;
      count = min_of(count, budget);
      const i64 slots = cached + count;
      // Idle hits are counted as needed, since taking them shortens the free queue.
      const i64 now = blocks_for(slots);
      i64 needed = pool_.demand(found, now, settings_.scheduler_reserve_full_isl ? blocks_for(total) : now);
      if (!running_.empty()) needed += settings_.watermark_blocks;
      // The first comparison spares the count of idle hits.
      if (needed > pool_.free_blocks() || needed + pool_.idle_hits(request.holding, found) > pool_.free_blocks()) {
        if (!running_.empty() || pauses_.empty()) return;
        let_go_first();
        continue;
      }

      dequeue();
      running_.push_back(seat);
      if (others_ == kNone) others_ = seat;
      ++running_on_[request.holding.chain];
      request.admission = admissions_++;
      ++admitted_;
      pool_.touch(request.holding, found);
      if (!pauses_.empty()) let_go(contexts_.above[request.row]);
      if (request.cached < 0) {
        request.cached = cached;
        request.loaded = block_.tokens_in(stored);
        request.hittable = pool_.hittable(request.holding, most, request.hittable);
      }
      request.computed = slots;
      request.settled = cached;
      if (log_ != nullptr) log_->taken_by(request.row, now_ns_);
      if (stored > 0) {
        load(request, found, stored);
        note_blocks(request, request.holding.in_use());
        continue;
      }
      grow(request, slots);
      note_blocks(request, request.holding.in_use());
      work_->parts.push_back(Work(seat, cached, count));
      budget -= count;
    }
  }

  // The link brings the request's blocks when it has brought all that were asked for before.
  KVSIM_FN KVSIM_LONG_WAY void load(Request& request, i64 found, i64 stored) {
    host_->store_context(request.holding.chain, found, found + stored);
    pool_.allocate(request.holding, found + stored);
    link_free_ns_ = max_of(link_free_ns_, now_ns_) + stored * plan_.load_ns;
    request.ready_ns = link_free_ns_;
  }

  KVSIM_FN bool still_loads(Request& request) {
    const bool loads = request.ready_ns > now_ns_;
    if (loads) {
      ++loading_;
    } else {
      request.ready_ns = -1;
    }
    return loads;
  }

  // How many blocks behind the first `found` the host tier can load.
  KVSIM_FN i64 stored_hits(const Request& request, i64 found) const {
    if (host_ == nullptr) return 0;
    return host_->hits(request.holding.chain, found, block_.filled_by(request.tokens() - 1));
  }

  KVSIM_FN i32 preemption_victim() const {
    if (!settings_.priority) return running_.last();
    i32 victim = running_.first();
    for (i32 other = victim; other != kNone; other = running_.after(other)) {
      if (seats_[other].served_after(seats_[victim])) victim = other;
    }
    return victim;
  }

  KVSIM_FN KVSIM_LONG_WAY void preempt(i32 seat) {
    Request& request = seats_[seat];
    leave(seat);
    --running_on_[request.holding.chain];
    if (plan_.host == kWriteThrough) host_->store_context(request.holding.chain, 0, request.holding.keyed);
    note_held(request);
    pool_.release(request.holding);
    request.ready_ns = -1;
    request.computed = request.quiet = 0;
    request.preemptions += 1;
    preempted_.push_back(request.row);
    enqueue(seat, true);
  }

  // ---- Pauses ----

  // What a finished turn holds for the next one, by the time of the end and by number.
  struct PauseEnd {
    i64 until_ns;
    i64 number;
    KVSIM_FN bool operator<(const PauseEnd& other) const {
      return until_ns != other.until_ns ? until_ns < other.until_ns : number < other.number;
    }
  };
  struct Pause {
    i64 row;
    i64 next_use;
    typename P::Holding holding;  // stays where it is: the pool points to it
  };
  using Pauses = Map<PauseEnd, Pause>;

  enum class Least { kPreserve, kSwap, kDiscard };

  // See wastes_least in engine_kernels.py.
  KVSIM_FN Least wastes_least(const Request& request) const {
    const i64 own = request.holding.blocks();
    i64 running = own;
    for (i32 seat = running_.first(); seat != kNone; seat = running_.after(seat)) {
      if (decoders_.has(seat)) {
        running += blocks_for(decoders_.computed(seat));
      } else if (seats_[seat].generated < seats_[seat].output) {
        running += seats_[seat].holding.blocks();
      }
    }
    const bool swaps = plan_.host == kSwap;
    const i64 preserve = plan_.pause_us[request.row] * own;
    const i64 discard = plan_.recompute_us[request.row] * running;
    const i64 swap = 2 * plan_.swap_us[request.row] * running;
    if (preserve <= discard && (preserve <= swap || !swaps)) return Least::kPreserve;
    return swaps && swap <= discard ? Least::kSwap : Least::kDiscard;
  }

  // A finished turn's blocks are held on or given back, and stored in the host tier, as the plan says.
  KVSIM_ONCE void pause(Request& request) {
    const i64 row = request.row;
    note_held(request);
    i64 next_use = 0;
    if (plan_.next_use_ns != nullptr) {
      next_use = plan_.next_use_ns[row] < 0 ? kForever : now_ns_ + plan_.next_use_ns[row];
    }
    i64 hold_ns = plan_.hold_ns == nullptr ? 0 : plan_.hold_ns[row];
    bool swap = plan_.host == kWriteThrough;
    if (hold_ns > 0 && plan_.pause_us != nullptr) {
      const Least least = wastes_least(request);
      swap = least == Least::kSwap;
      if (least != Least::kPreserve) hold_ns = 0;
    }
    if (swap) host_->store_context(request.holding.chain, 0, request.holding.keyed);
    if (hold_ns == 0) {
      pool_.release(request.holding, next_use);
      return;
    }
    const PauseEnd end{min_of(now_ns_ + hold_ns, kForever), paused_++};
    const auto place = pauses_.emplace(end, Pause{row, next_use, {}}).first;
    pool_.hand_over(request.holding, place->second.holding);
    pause_of_[row] = place;
  }

  KVSIM_FN KVSIM_LONG_WAY void hold_on(i64 row, i64 now_ns) {
    const auto known = pause_of_.find(row);
    if (known == pause_of_.end() || known->second->first.until_ns < now_ns) return;
    known->second = rekey(pauses_, known->second, PauseEnd{kAwaited, known->second->first.number});
  }

  KVSIM_FN void let_go(i64 row) {
    const auto known = pause_of_.find(row);
    if (known != pause_of_.end()) let_go(known->second);
  }

  KVSIM_FN KVSIM_LONG_WAY void let_go_first() { let_go(pauses_.begin()); }

  KVSIM_FN void let_go(typename Pauses::iterator place) {
    pool_.release(place->second.holding, place->second.next_use);
    pause_of_.erase(place->second.row);
    pauses_.erase(place);
  }

  // Takes a victim out of the step under way; returns its tokens to the budget.
  KVSIM_FN i64 unschedule(i32 seat) {
    if (!settings_.priority) return 0;  // the last of running comes after all that are scheduled
    Tray<Work>& parts = work_->parts;
    Work* const part =
        algorithms::find_if(parts.begin(), parts.end(), [&](const Work& other) { return other.seat == seat; });
    if (part == parts.end()) return 0;
    const i64 tokens = part->tokens;
    parts.erase(part);
    return tokens;
  }

  // ---- Seats ----

  // Those from the first one on are free.
  KVSIM_FN void offer_seats(i64 first) {
    for (i64 seat = static_cast<i64>(seats_.size()) - 1; seat >= first; --seat) {
      empty_seats_.push_back(static_cast<i32>(seat));
    }
  }

  // Twice as many; holdings move.
  KVSIM_FN KVSIM_LONG_WAY void add_seats() {
    const i64 before = static_cast<i64>(seats_.size());
    seats_.resize(2 * before);
    for (Request& request : seats_) pool_.moved(request.holding);
    running_.resize(2 * before);
    decoders_.resize(2 * before);
    offer_seats(before);
  }

  KVSIM_FN auto heap_order() const {
    return [this](i32 a, i32 b) { return seats_[a].served_after(seats_[b]); };
  }

  KVSIM_FN void enqueue(i32 seat, bool first) {
    if (settings_.priority) {
      waiting_.push_back(seat);
      algorithms::push_heap(waiting_.begin(), waiting_.end(), heap_order());
    } else if (first) {
      waiting_.push_front(seat);
    } else {
      waiting_.push_back(seat);
    }
  }

  KVSIM_FN void dequeue() {
    if (settings_.priority) {
      algorithms::pop_heap(waiting_.begin(), waiting_.end(), heap_order());
      waiting_.pop_back();
    } else {
      waiting_.pop_front();
    }
  }

  // A token for who has been preempted while the step that computed it was in flight.
  template <class OnToken, class OnFinish>
  KVSIM_FN void give_token_in_queue(i32 seat, OnToken& on_token, OnFinish& on_finish) {
    Request& request = seats_[seat];
    request.generated += 1;
    on_token(request);
    if (request.generated < request.output) return;
    waiting_.erase(algorithms::find(waiting_.begin(), waiting_.end(), seat));
    if (settings_.priority) algorithms::make_heap(waiting_.begin(), waiting_.end(), heap_order());
    prompt_blocks_ -= blocks_for(request.prompt);
    on_finish(request);
    empty_seats_.push_back(seat);
  }

  // Runs no more, and is no line.
  KVSIM_FN void leave(i32 seat) {
    if (others_ == seat) others_ = running_.after(seat);
    running_.remove(seat);
  }

  template <class OnFinish>
  KVSIM_FN void finish(i32 seat, OnFinish& on_finish) {
    Request& request = seats_[seat];
    prompt_blocks_ -= blocks_for(request.prompt);
    --running_on_[request.holding.chain];
    pause(request);
    on_finish(request);
    empty_seats_.push_back(seat);
  }

  // New blocks that `more` steps beyond the scheduled one take.
  KVSIM_FN i64 blocks_for_more(i64 more) const {
    i64 blocks = work_->lines > 0 ? decoders_.takes(more) : 0;
    for (const Work& work : work_->parts) {
      const Request& request = seats_[work.seat];
      blocks += pool_.takes(request.holding, blocks_for(request.computed + more));
    }
    return blocks;
  }

  // Whether the head of the waiting queue, refused now, could be admitted while others only decode: if they give back
  // what their windows pass, or if one of them is still writing what the head's prompt begins with.
  KVSIM_FN bool head_may_run_soon() const {
    if (waiting_.empty() || running_.size() >= settings_.max_num_seqs) return false;
    if constexpr (!P::kStepwise) {
      for (i32 chain = seats_[waiting_.front()].holding.chain; chain != kNone; chain = chains_.shapes[chain].above) {
        if (running_on_[chain] > 0) return true;
      }
    }
    return P::kStepwise;
  }

  // Whether the head, refused now, could ask for fewer blocks while others decode: if what the host tier has of its
  // prompt is pushed out by what they evict.
  KVSIM_FN bool head_may_load_less() const {
    return plan_.host == kOnEviction && !settings_.scheduler_reserve_full_isl && !waiting_.empty();
  }

  Settings settings_;
  BlockSize block_;
  Contexts contexts_;
  Plan plan_;
  const Chains& chains_;
  Owner<HostTier> host_;
  EvictionLog* log_ = nullptr;
  P pool_;
  Vector<Request> seats_;  // of the unfinished; the pool points into them
  Vector<i32> empty_seats_;
  SeatList running_;        // in order of admission
  Decoders decoders_;       // the first of them
  i32 others_ = kNone;      // the first that is none of these
  Vector<i32> running_on_;  // by chain: running requests whose context ends in it
  Vector<i32> line_on_;     // of these, the seat of one that is a line
  Deque<i32> waiting_;      // seats in order of service, or a heap of it under the priority policy
  Array<Step, 2> steps_;    // those in flight: the oldest, then the one after it
  i64 oldest_ = 0;
  i64 in_flight_ = 0;
  Step* work_ = &steps_[0];  // the step scheduled last
  i64 token_since_ = 0;      // 1: tokens have come since
  Tray<i64> preempted_;
  Tray<i64> dispersed_;
  Pauses pauses_;
  HashMap<i64, typename Pauses::iterator> pause_of_;  // by row
  i64 link_free_ns_ = 0;
  i64 loading_ = 0;
  i64 paused_ = 0;
  i64 admitted_ = 0;
  i64 admissions_ = 0;
  i64 arrived_ = 0;
  i64 prompt_blocks_ = 0;
  i64 now_ns_ = 0;
  i64 least_free_ = 0;
};

using Scheduler = BasicScheduler<Pool>;
using GroupScheduler = BasicScheduler<BlockPool>;

}  // namespace kvsim
