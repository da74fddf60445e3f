// A queue out of which the least comes first: a binary heap.
#pragma once

#include <cstddef>

#include "containers.hpp"
#include "rates.hpp"

namespace kvsim {

// `one.before(other)` should do without a branch: which of two is less is a toss-up, and a branch that is guessed wrong
// costs more than the rest.
template <class Value>
class LeastFirst {
 public:
  KVSIM_FN bool empty() const { return heap_.empty(); }
  KVSIM_FN const Value& top() const { return heap_.front(); }
  KVSIM_FN void clear() { heap_.clear(); }

  KVSIM_FN void push(const Value& value) {
    heap_.push_back(value);
    rise(heap_.size() - 1, value);
  }

  KVSIM_FN void pop() {
    const Value last = heap_.back();
    heap_.pop_back();
    const std::size_t size = heap_.size();
    if (size == 0) return;
    // What was last goes to the bottom, where it most likely belongs, and up from there.
    std::size_t hole = 0;
    for (std::size_t child = 1; child < size; child = 2 * hole + 1) {
      if (child + 1 < size) child += heap_[child + 1].before(heap_[child]);
      heap_[hole] = heap_[child];
      hole = child;
    }
    rise(hole, last);
  }

  // All of them, in any order.
  KVSIM_FN const Vector<Value>& values() const { return heap_; }

 private:
  KVSIM_FN void rise(std::size_t hole, const Value value) {
    while (hole > 0 && value.before(heap_[(hole - 1) / 2])) {
      heap_[hole] = heap_[(hole - 1) / 2];
      hole = (hole - 1) / 2;
    }
    heap_[hole] = value;
  }

  Vector<Value> heap_;
};

}  // namespace kvsim
