// A vector that every step empties and fills: emptying it takes no branch, and room once made stays.
#pragma once

#include <cstddef>

#include "containers.hpp"
#include "rates.hpp"

namespace kvsim {

template <class Value>
class Tray {
 public:
  KVSIM_FN bool empty() const { return size_ == 0; }
  KVSIM_FN std::size_t size() const { return size_; }
  KVSIM_FN Value* begin() { return room_.data(); }
  KVSIM_FN Value* end() { return room_.data() + size_; }
  KVSIM_FN const Value* begin() const { return room_.data(); }
  KVSIM_FN const Value* end() const { return room_.data() + size_; }
  KVSIM_FN const Value& front() const { return *begin(); }

  KVSIM_FN void clear() { size_ = 0; }
  KVSIM_FN void push_back(const Value& value) {
    if (size_ == room_.size()) {
      room_.push_back(value);
    } else {
      room_[size_] = value;
    }
    ++size_;
  }
  KVSIM_FN void erase(Value* place) {
    for (; place + 1 != end(); ++place) *place = place[1];
    --size_;
  }

 private:
  Vector<Value> room_;
  std::size_t size_ = 0;
};

}  // namespace kvsim
