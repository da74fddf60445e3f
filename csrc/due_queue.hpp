// Turns by the time at which they come, the first one first.
#pragma once

#include "containers.hpp"
#include "rates.hpp"

namespace kvsim {

struct Due {
  i64 ns;
  i64 row;

  // Without a branch: which of two comes first is a toss-up, and a branch that is guessed wrong costs more than both.
  KVSIM_FN bool before(const Due& other) const { return (ns < other.ns) | ((ns == other.ns) & (row < other.row)); }
};

// A binary heap.
class DueQueue {
 public:
  static constexpr i64 kNever = INT64_MAX;

  // When the first one comes; never, if none is to come.
  KVSIM_FN i64 next_ns() const { return next_ns_; }

  KVSIM_FN void push(const Due& due) {
    heap_.push_back(due);
    rise(heap_.size() - 1, due);
    next_ns_ = heap_.front().ns;
  }

  KVSIM_FN Due pop() {
    const Due first = heap_.front(), last = heap_.back();
    heap_.pop_back();
    const std::size_t size = heap_.size();
    if (size == 0) {
      next_ns_ = kNever;
      return first;
    }
    // What was last goes to the bottom, where it most likely belongs, and up from there.
    std::size_t hole = 0;
    for (std::size_t child = 1; child < size; child = 2 * hole + 1) {
      if (child + 1 < size) child += heap_[child + 1].before(heap_[child]);
      heap_[hole] = heap_[child];
      hole = child;
    }
    rise(hole, last);
    next_ns_ = heap_.front().ns;
    return first;
  }

 private:
  KVSIM_FN void rise(std::size_t hole, const Due due) {
    while (hole > 0 && due.before(heap_[(hole - 1) / 2])) {
      heap_[hole] = heap_[(hole - 1) / 2];
      hole = (hole - 1) / 2;
    }
    heap_[hole] = due;
  }

  Vector<Due> heap_;
  i64 next_ns_ = kNever;
};

}  // namespace kvsim
