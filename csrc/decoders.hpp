// The running requests that decode one token in every step, kept so that a step costs what changes, not how many
// there are.
//
// A round is the step's token for each of them. Those who take their next block in the same round, modulo the block
// size, are a class: what a round does is known from classes, and what the rounds have done to one request, since
// somebody asked last, from differences of sums over its class.
#pragma once

#include <cstdint>

#include "chains.hpp"
#include "containers.hpp"
#include "least_first.hpp"
#include "settings.hpp"

namespace kvsim {

class Decoders {
 public:
  KVSIM_FN Decoders(const BlockSize& block, i64 seats) : block_(block), classes_(block.tokens()), members_(seats) {}
  KVSIM_FN void resize(i64 seats) { members_.resize(seats); }

  KVSIM_FN bool has(i32 seat) const { return members_[seat].until > 0; }
  KVSIM_FN bool empty() const { return lines_ == 0 && left_.empty(); }
  // Those who get a token in the next round; who has had the last one scheduled stays a member until it comes.
  KVSIM_FN i64 lines() const { return lines_; }
  // The tokens that these have computed, all together.
  KVSIM_FN i64 computed() const { return computed_; }
  // Changes with who is among the lines.
  KVSIM_FN i64 version() const { return version_; }
  // Rounds by number: how many have been scheduled, and have ended.
  KVSIM_FN i64 scheduled() const { return scheduled_; }
  KVSIM_FN i64 ended() const { return ended_; }

  // A request that has computed so many tokens decodes `rounds` more from the next round on. Of those who end in the
  // same round, the one with the lower number does so first.
  KVSIM_FN void join(i32 seat, i64 number, i64 computed, i64 rounds) {
    Member& member = members_[seat];
    i64 phase = phase_ - block_.left_over(computed);
    if (phase < 0) phase += block_.tokens();
    enter(phase);
    const Class& alike = classes_[phase];
    member = {scheduled_, scheduled_ + rounds, computed - scheduled_, scheduled_,    scheduled_,
              phase,      alike.blocks,        alike.taken_ns,        share_of_each_};
    order_.push({member.until, number, seat});
    leaves_at_ = order_.top().until;
    ++lines_;
    computed_ += computed;
    ++version_;
  }

  // ---- Rounds ----

  // Blocks that the next round takes, or the next `rounds`.
  KVSIM_FN i64 takes() const { return classes_[phase_].members; }
  KVSIM_FN i64 takes(i64 rounds) const {
    i64 blocks = block_.filled_by(rounds) * lines_;
    i64 phase = phase_;
    for (i64 left = block_.left_over(rounds); left > 0; --left, phase = after(phase)) blocks += classes_[phase].members;
    return blocks;
  }

  // Whether it takes one in the next round.
  KVSIM_FN bool takes_block(i32 seat) const { return members_[seat].phase == phase_; }

  // A round is scheduled.
  KVSIM_FN void schedule(i64 now_ns) {
    take(now_ns);
    ++scheduled_;
    computed_ += lines_;
  }

  // The oldest one under way ends.
  KVSIM_FN void end() { ++ended_; }

  // So many rounds end, and as many are scheduled, the n-th at `end_of(n)`; `on_blocks(ns, count)` says what they take.
  // Returns what they take in all.
  template <class EndOf, class OnBlocks>
  KVSIM_FN i64 advance(i64 rounds, EndOf&& end_of, OnBlocks&& on_blocks) {
    i64 blocks = 0;
    i64 round = 1, phase = phase_;
    for (; round <= rounds && classes_[phase].members == 0; ++round) phase = after(phase);
    while (round <= rounds) {
      Class& alike = classes_[phase];
      const i64 at_ns = end_of(round);
      alike.take(at_ns);
      blocks += alike.members;
      on_blocks(at_ns, alike.members);
      round += alike.gap;
      phase = alike.next;
    }
    phase_ = after(phase_, block_.left_over(rounds));
    scheduled_ += rounds;
    ended_ += rounds;
    computed_ += rounds * lines_;
    return blocks;
  }

  // Everybody has a share more of the time of the rounds.
  KVSIM_FN void share(i64 each_ns) { share_of_each_ += each_ns; }

  // ---- One request ----

  // The tokens it has computed, or had before the round with that number.
  KVSIM_FN i64 computed(i32 seat) const { return computed_before(seat, min_of(scheduled_, members_[seat].until)); }
  KVSIM_FN i64 computed_before(i32 seat, i64 round) const { return members_[seat].base + round; }
  KVSIM_FN bool takes_part(i32 seat, i64 round) const {
    return members_[seat].first <= round && round < members_[seat].until;
  }

  // What the rounds have done since it joined, or since the last time.
  struct Progress {
    i64 scheduled;
    i64 ended;
    i64 blocks;              // taken
    std::uint64_t taken_ns;  // the sum of the instants at which they were, modulo 2^64
  };
  KVSIM_FN Progress tell(i32 seat) {
    Member& member = members_[seat];
    const i64 scheduled = min_of(scheduled_, member.until), ended = max_of(ended_, member.told_ended);
    Progress progress{scheduled - member.told_scheduled, ended - member.told_ended, 0, 0};
    member.told_scheduled = scheduled;
    member.told_ended = ended;
    if (member.phase == kNoClass) return progress;
    const Class& alike = classes_[member.phase];
    progress.blocks = alike.blocks - member.told_blocks;
    progress.taken_ns = alike.taken_ns - member.told_taken_ns;
    member.told_blocks = alike.blocks;
    member.told_taken_ns = alike.taken_ns;
    return progress;
  }

  // Its shares begin now.
  KVSIM_FN void begin_sharing(i32 seat) { members_[seat].told_share = share_of_each_; }
  // All its shares.
  KVSIM_FN i64 shares(i32 seat) const { return share_of_each_ - members_[seat].told_share; }

  // ---- Leaving ----

  // Who has the fewest rounds left, of those who have any to schedule; whether that is none.
  KVSIM_FN i32 next_to_leave() const { return order_.top().seat; }
  KVSIM_FN bool any_leaves() const { return leaves_at_ == scheduled_; }
  // It has been told, and takes no part in rounds any more.
  KVSIM_FN void leave() {
    const Place place = order_.top();
    order_.pop();
    left_.push_back(place);
    leaves_at_ = --lines_ == 0 ? kNever : order_.top().until;
    Member& member = members_[place.seat];
    computed_ -= member.base + member.until;
    leave(member.phase);
    member.phase = kNoClass;
    ++version_;
  }

  KVSIM_FN bool has_left(i32 seat) const { return members_[seat].phase == kNoClass; }

  // Who ends first; whether that is now, or how many rounds before.
  KVSIM_FN i32 next_to_end() const { return left_.empty() ? order_.top().seat : left_.front().seat; }
  KVSIM_FN i64 rounds_to_end() const { return (left_.empty() ? leaves_at_ : left_.front().until) - ended_; }
  KVSIM_FN bool any_ends() const { return rounds_to_end() == 0; }
  KVSIM_FN bool first_has_left() const { return !left_.empty(); }
  KVSIM_FN void remove() {
    members_[left_.front().seat].until = 0;
    left_.erase(left_.begin());
  }

  // Nobody is a member any more. Rounds under way are none.
  KVSIM_FN void disperse() {
    for (const Place& place : order_.values()) {
      classes_[members_[place.seat].phase].members = 0;
      members_[place.seat].until = 0;
    }
    order_.clear();
    for (const Place& place : left_) members_[place.seat].until = 0;
    left_.clear();
    lines_ = computed_ = 0;
    leaves_at_ = kNever;
    ended_ = scheduled_;
    ++version_;
  }

 private:
  struct Class {
    i32 members = 0;
    i32 next = 0;                // the class with members that takes blocks next after them
    i64 gap = 0;                 // so many rounds later
    i64 blocks = 0;              // that each member would have taken
    std::uint64_t taken_ns = 0;  // the sum of the instants
    KVSIM_FN void take(i64 now_ns) {
      blocks += 1;
      taken_ns += static_cast<std::uint64_t>(now_ns);
    }
  };
  static constexpr i64 kNoClass = -1;
  struct Member {
    i64 first = 0, until = 0;  // its rounds; until 0: none
    i64 base = 0;              // computed tokens before round 0
    i64 told_scheduled = 0, told_ended = 0;
    i64 phase = kNoClass;
    i64 told_blocks = 0;
    std::uint64_t told_taken_ns = 0;
    i64 told_share = 0;
  };
  struct Place {
    i64 until;
    i64 number;
    i32 seat;
    KVSIM_FN bool before(const Place& other) const {
      return (until < other.until) | ((until == other.until) & (number < other.number));
    }
  };
  static constexpr i64 kNever = INT64_MAX;

  KVSIM_FN i64 after(i64 phase, i64 rounds = 1) const {
    phase += rounds;
    return phase >= block_.tokens() ? phase - block_.tokens() : phase;
  }

  KVSIM_FN void take(i64 now_ns) {
    classes_[phase_].take(now_ns);
    phase_ = after(phase_);
  }

  // A class has a member more, or less.
  KVSIM_FN void enter(i64 phase) {
    Class& alike = classes_[phase];
    if (alike.members++ > 0) return;
    const i64 gap = gap_before(phase);
    const bool alone = gap == block_.tokens();
    Class& before = classes_[after(phase, block_.tokens() - gap)];
    alike.gap = alone ? gap : before.gap - gap;
    alike.next = alone ? static_cast<i32>(phase) : before.next;
    before.gap = gap;
    before.next = static_cast<i32>(phase);
  }
  KVSIM_FN void leave(i64 phase) {
    if (--classes_[phase].members > 0 || lines_ == 0) return;
    Class& before = classes_[after(phase, block_.tokens() - gap_before(phase))];
    before.gap += classes_[phase].gap;
    before.next = classes_[phase].next;
  }
  // How many rounds before theirs the class before them that has members takes a block.
  KVSIM_FN i64 gap_before(i64 phase) const {
    i64 gap = 0;
    do {
      phase = phase == 0 ? block_.tokens() - 1 : phase - 1;
      ++gap;
    } while (classes_[phase].members == 0);
    return gap;
  }

  BlockSize block_;
  Vector<Class> classes_;    // by the round in which they take a block, modulo their number
  Vector<Member> members_;   // by seat
  LeastFirst<Place> order_;  // by the end, those who have rounds to schedule
  Vector<Place> left_;       // by the end, those who have none
  i64 lines_ = 0;
  i64 leaves_at_ = kNever;  // the round before which the first of those who have rounds to schedule has none
  i64 phase_ = 0;           // of the next round
  i64 scheduled_ = 1, ended_ = 1;
  i64 computed_ = 0;
  i64 version_ = 0;
  i64 share_of_each_ = 0;
};

}  // namespace kvsim
