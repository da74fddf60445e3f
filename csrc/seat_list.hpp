// Seats in an order: each joins at the back, and leaves from wherever it stands.
#pragma once

#include "chains.hpp"
#include "containers.hpp"

namespace kvsim {

class SeatList {
 public:
  KVSIM_FN explicit SeatList(i64 seats) { resize(seats); }
  // Seats below that number can be members.
  KVSIM_FN void resize(i64 seats) { links_.resize(seats + 1); }

  KVSIM_FN bool empty() const { return size_ == 0; }
  KVSIM_FN i64 size() const { return size_; }
  // -1 behind the last one, and before the first.
  KVSIM_FN i32 first() const { return links_[0].after - 1; }
  KVSIM_FN i32 last() const { return links_[0].before - 1; }
  KVSIM_FN i32 after(i32 seat) const { return links_[seat + 1].after - 1; }

  KVSIM_FN void push_back(i32 seat) {
    const i32 place = seat + 1, last = links_[0].before;
    links_[place] = {last, 0};
    links_[last].after = place;
    links_[0].before = place;
    ++size_;
  }

  KVSIM_FN void remove(i32 seat) {
    const Link gone = links_[seat + 1];
    links_[gone.before].after = gone.after;
    links_[gone.after].before = gone.before;
    --size_;
  }

 private:
  struct Link {
    i32 before = 0, after = 0;
  };

  Vector<Link> links_;  // a ring: of the seat with the next lower number, but for the first, which is the ends
  i64 size_ = 0;
};

}  // namespace kvsim
