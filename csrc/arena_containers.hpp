// What the engine uses of the standard library's containers and algorithms, for code that also runs on a device.
//
// Names and meanings are the standard's. Two differences, both of which no result depends on: a HashMap is a Map, and a
// Map is a sorted array of nodes, so that an insertion moves pointers (simulations on a device are small).
#pragma once

#include <cstddef>
#include <initializer_list>
#include <new>
#include <utility>

#include "arena.hpp"

namespace kvsim {

template <class Value, class... Arguments>
KVSIM_FN Value* make_in_arena(Arguments&&... arguments) {
  return new (take_bytes(sizeof(Value))) Value(std::forward<Arguments>(arguments)...);
}

template <class Value>
KVSIM_FN void end_in_arena(Value* value) {
  value->~Value();
  give_bytes_back(value, sizeof(Value));
}

template <class Value, std::size_t size>
struct Array {
  KVSIM_FN Value& operator[](std::size_t i) { return values[i]; }
  KVSIM_FN const Value& operator[](std::size_t i) const { return values[i]; }

  Value values[size];
};

template <class Value>
class Vector {
 public:
  using iterator = Value*;

  KVSIM_FN Vector() {}
  KVSIM_FN explicit Vector(std::size_t size) { resize(size); }
  KVSIM_FN Vector(std::size_t size, Value value) { assign(size, value); }
  KVSIM_FN Vector(const Value* first, const Value* last) { assign(first, last); }
  KVSIM_FN Vector(std::initializer_list<Value> values) { assign(values.begin(), values.end()); }
  KVSIM_FN Vector(const Vector& other) { assign(other.begin(), other.end()); }
  KVSIM_FN Vector(Vector&& other) noexcept { swap(other); }
  KVSIM_FN Vector& operator=(const Vector& other) {
    if (this != &other) assign(other.begin(), other.end());
    return *this;
  }
  KVSIM_FN Vector& operator=(Vector&& other) noexcept {
    swap(other);
    return *this;
  }
  KVSIM_FN ~Vector() {
    clear();
    if (data_ != nullptr) give_bytes_back(data_, room_ * sizeof(Value));
  }

  KVSIM_FN void swap(Vector& other) {
    Value* const data = data_;
    const std::size_t size = size_, room = room_;
    data_ = other.data_, size_ = other.size_, room_ = other.room_;
    other.data_ = data, other.size_ = size, other.room_ = room;
  }

  KVSIM_FN std::size_t size() const { return size_; }
  KVSIM_FN bool empty() const { return size_ == 0; }
  KVSIM_FN Value* data() { return data_; }
  KVSIM_FN const Value* data() const { return data_; }
  KVSIM_FN Value* begin() { return data_; }
  KVSIM_FN const Value* begin() const { return data_; }
  KVSIM_FN Value* end() { return data_ + size_; }
  KVSIM_FN const Value* end() const { return data_ + size_; }
  KVSIM_FN Value& operator[](std::size_t i) { return data_[i]; }
  KVSIM_FN const Value& operator[](std::size_t i) const { return data_[i]; }
  KVSIM_FN Value& front() { return data_[0]; }
  KVSIM_FN const Value& front() const { return data_[0]; }
  KVSIM_FN Value& back() { return data_[size_ - 1]; }
  KVSIM_FN const Value& back() const { return data_[size_ - 1]; }

  KVSIM_FN KVSIM_APART void reserve(std::size_t room) {
    if (room <= room_) return;
    Value* const moved = static_cast<Value*>(take_bytes(room * sizeof(Value)));
    for (std::size_t i = 0; i < size_; ++i) {
      new (moved + i) Value(std::move(data_[i]));
      data_[i].~Value();
    }
    if (data_ != nullptr) give_bytes_back(data_, room_ * sizeof(Value));
    data_ = moved;
    room_ = room;
  }
  KVSIM_FN void resize(std::size_t size) {
    shrink(size);
    reserve(size);
    while (size_ < size) new (data_ + size_++) Value();
  }
  KVSIM_FN void resize(std::size_t size, Value value) {
    shrink(size);
    reserve(size);
    while (size_ < size) new (data_ + size_++) Value(value);
  }
  KVSIM_FN void assign(std::size_t size, Value value) {
    clear();
    resize(size, value);
  }
  KVSIM_FN void assign(const Value* first, const Value* last) {
    clear();
    reserve(last - first);
    for (; first != last; ++first) new (data_ + size_++) Value(*first);
  }
  KVSIM_FN void clear() { shrink(0); }

  template <class... Arguments>
  KVSIM_FN Value& emplace_back(Arguments&&... arguments) {
    if (size_ == room_) {  // made first: the arguments may stand in what moves
      Value made(std::forward<Arguments>(arguments)...);
      reserve(room_ == 0 ? 4 : 2 * room_);
      return *new (data_ + size_++) Value(std::move(made));
    }
    return *new (data_ + size_++) Value(std::forward<Arguments>(arguments)...);
  }
  KVSIM_FN void push_back(const Value& value) { emplace_back(value); }
  KVSIM_FN void pop_back() { data_[--size_].~Value(); }

  KVSIM_FN KVSIM_APART Value* insert(Value* place, Value value) {
    const std::size_t at = place - data_;
    push_back(value);
    for (std::size_t i = size_ - 1; i > at; --i) data_[i] = std::move(data_[i - 1]);
    data_[at] = std::move(value);
    return data_ + at;
  }
  KVSIM_FN Value* erase(Value* place) {
    for (Value* at = place; at + 1 != end(); ++at) *at = std::move(at[1]);
    pop_back();
    return place;
  }

 private:
  KVSIM_FN void shrink(std::size_t size) {
    while (size_ > size) pop_back();
  }

  Value* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t room_ = 0;
};

// A ring of pointers: values never move.
template <class Value>
class Deque {
 public:
  template <class Of, class At>
  class Iterator {
   public:
    KVSIM_FN Iterator(Of* of, std::size_t at) : of_(of), at_(at) {}
    KVSIM_FN At& operator*() const { return (*of_)[at_]; }
    KVSIM_FN At* operator->() const { return &(*of_)[at_]; }
    KVSIM_FN At& operator[](std::ptrdiff_t i) const { return (*of_)[at_ + i]; }
    KVSIM_FN Iterator& operator++() {
      ++at_;
      return *this;
    }
    KVSIM_FN std::ptrdiff_t operator-(const Iterator& other) const { return at_ - other.at_; }
    KVSIM_FN bool operator==(const Iterator& other) const { return at_ == other.at_; }
    KVSIM_FN bool operator!=(const Iterator& other) const { return at_ != other.at_; }
    KVSIM_FN std::size_t place() const { return at_; }

   private:
    Of* of_;
    std::size_t at_;
  };
  using iterator = Iterator<Deque, Value>;
  using const_iterator = Iterator<const Deque, const Value>;

  KVSIM_FN Deque() {}
  Deque(const Deque&) = delete;
  Deque& operator=(const Deque&) = delete;
  KVSIM_FN ~Deque() {
    while (!empty()) pop_back();
  }

  KVSIM_FN std::size_t size() const { return size_; }
  KVSIM_FN bool empty() const { return size_ == 0; }
  KVSIM_FN Value& operator[](std::size_t i) { return *slot(i); }
  KVSIM_FN const Value& operator[](std::size_t i) const { return *slot(i); }
  KVSIM_FN Value& front() { return *slot(0); }
  KVSIM_FN const Value& front() const { return *slot(0); }
  KVSIM_FN Value& back() { return *slot(size_ - 1); }
  KVSIM_FN iterator begin() { return {this, 0}; }
  KVSIM_FN iterator end() { return {this, size_}; }
  KVSIM_FN const_iterator begin() const { return {this, 0}; }
  KVSIM_FN const_iterator end() const { return {this, size_}; }

  template <class... Arguments>
  KVSIM_FN Value& emplace_back(Arguments&&... arguments) {
    Value* const made = make_in_arena<Value>(std::forward<Arguments>(arguments)...);
    make_room();
    slot(size_++) = made;
    return *made;
  }
  KVSIM_FN void push_back(const Value& value) { emplace_back(value); }
  KVSIM_FN void push_front(const Value& value) {
    Value* const made = make_in_arena<Value>(value);
    make_room();
    first_ = (first_ + ring_.size() - 1) & (ring_.size() - 1);
    ++size_;
    slot(0) = made;
  }
  KVSIM_FN void pop_back() { end_in_arena(slot(--size_)); }
  KVSIM_FN void pop_front() {
    end_in_arena(slot(0));
    first_ = (first_ + 1) & (ring_.size() - 1);
    --size_;
  }
  KVSIM_FN void erase(iterator place) {
    end_in_arena(slot(place.place()));
    for (std::size_t i = place.place(); i + 1 < size_; ++i) slot(i) = slot(i + 1);
    --size_;
  }

 private:
  KVSIM_FN Value*& slot(std::size_t i) { return ring_[(first_ + i) & (ring_.size() - 1)]; }
  KVSIM_FN Value* slot(std::size_t i) const { return ring_[(first_ + i) & (ring_.size() - 1)]; }

  KVSIM_FN KVSIM_APART void make_room() {
    if (size_ < ring_.size()) return;
    Vector<Value*> larger(size_ == 0 ? 4 : 2 * size_);
    for (std::size_t i = 0; i < size_; ++i) larger[i] = slot(i);
    ring_.swap(larger);
    first_ = 0;
  }

  Vector<Value*> ring_;  // a power of two of them
  std::size_t first_ = 0;
  std::size_t size_ = 0;
};

template <class Value>
class List {
  struct Node {
    Node* before;
    Node* after;
    Value value;
  };

 public:
  class iterator {
   public:
    KVSIM_FN iterator() {}
    KVSIM_FN explicit iterator(Node* node) : node_(node) {}
    KVSIM_FN Value& operator*() const { return node_->value; }
    KVSIM_FN Value* operator->() const { return &node_->value; }
    KVSIM_FN iterator& operator++() {
      node_ = node_->after;
      return *this;
    }
    KVSIM_FN Node* node() const { return node_; }

   private:
    Node* node_ = nullptr;
  };

  KVSIM_FN List() {
    end_ = static_cast<Node*>(take_bytes(sizeof(Node)));  // its value is none
    end_->before = end_->after = end_;
  }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  KVSIM_FN ~List() {
    while (end_->after != end_) erase(begin());
    give_bytes_back(end_, sizeof(Node));
  }

  KVSIM_FN iterator begin() { return iterator(end_->after); }
  KVSIM_FN iterator end() { return iterator(end_); }
  KVSIM_FN Value& front() { return end_->after->value; }
  KVSIM_FN KVSIM_APART iterator insert(iterator place, const Value& value) {
    Node* const after = place.node();
    Node* const made = new (take_bytes(sizeof(Node))) Node{after->before, after, value};
    after->before->after = made;
    after->before = made;
    return iterator(made);
  }
  KVSIM_FN void erase(iterator place) {
    Node* const gone = place.node();
    gone->before->after = gone->after;
    gone->after->before = gone->before;
    end_in_arena(gone);
  }

 private:
  Node* end_;
};

template <class Key, class Value>
class Map {
 public:
  struct Node {
    Key first;
    Value second;
    Node* before;
    Node* after;
  };
  class iterator {
   public:
    KVSIM_FN iterator() {}
    KVSIM_FN iterator(Node* node, Node* last) : node_(node), last_(last) {}
    KVSIM_FN Node& operator*() const { return *node_; }
    KVSIM_FN Node* operator->() const { return node_; }
    KVSIM_FN iterator& operator++() {
      last_ = node_;
      node_ = node_->after;
      return *this;
    }
    KVSIM_FN iterator& operator--() {
      node_ = node_ == nullptr ? last_ : node_->before;
      return *this;
    }
    KVSIM_FN bool operator==(const iterator& other) const { return node_ == other.node_; }
    KVSIM_FN bool operator!=(const iterator& other) const { return node_ != other.node_; }
    KVSIM_FN Node* node() const { return node_; }

   private:
    Node* node_ = nullptr;  // none: the end
    Node* last_ = nullptr;  // before the end
  };
  struct Inserted {
    iterator first;
    bool second;
  };

  KVSIM_FN Map() {}
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;
  KVSIM_FN ~Map() {
    for (Node* node : sorted_) end_in_arena(node);
  }

  KVSIM_FN bool empty() const { return sorted_.empty(); }
  KVSIM_FN iterator begin() const { return at(0); }
  KVSIM_FN iterator end() const { return at(sorted_.size()); }

  KVSIM_FN iterator find(const Key& key) const {
    const std::size_t place = lower(key);
    return known(place, key) ? at(place) : end();
  }
  KVSIM_FN iterator lower_bound(const Key& key) const { return at(lower(key)); }
  KVSIM_FN iterator upper_bound(const Key& key) const {
    const std::size_t place = lower(key);
    return at(known(place, key) ? place + 1 : place);
  }
  KVSIM_FN Value& operator[](const Key& key) { return emplace(key, Value()).first->second; }
  KVSIM_FN KVSIM_APART Inserted emplace(const Key& key, const Value& value) {
    const std::size_t place = lower(key);
    if (known(place, key)) return {at(place), false};
    link(place, new (take_bytes(sizeof(Node))) Node{key, value, nullptr, nullptr});
    return {at(place), true};
  }
  KVSIM_FN void erase(iterator place) {
    unlink(lower(place->first));
    end_in_arena(place.node());
  }
  KVSIM_FN void erase(const Key& key) {
    const iterator place = find(key);
    if (place != end()) erase(place);
  }
  KVSIM_FN iterator rekey(iterator place, const Key& key) {
    unlink(lower(place->first));
    place->first = key;
    const std::size_t now = lower(key);
    link(now, place.node());
    return at(now);
  }

 private:
  KVSIM_FN iterator at(std::size_t place) const {
    Node* const last = sorted_.empty() ? nullptr : sorted_.back();
    return {place < sorted_.size() ? sorted_[place] : nullptr, last};
  }
  KVSIM_FN bool known(std::size_t place, const Key& key) const {
    return place < sorted_.size() && !(key < sorted_[place]->first);
  }
  KVSIM_FN KVSIM_APART std::size_t lower(const Key& key) const {
    std::size_t low = 0, high = sorted_.size();
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      if (sorted_[middle]->first < key) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
  KVSIM_FN KVSIM_APART void link(std::size_t place, Node* node) {
    node->before = place > 0 ? sorted_[place - 1] : nullptr;
    node->after = place < sorted_.size() ? sorted_[place] : nullptr;
    if (node->before != nullptr) node->before->after = node;
    if (node->after != nullptr) node->after->before = node;
    sorted_.insert(sorted_.begin() + place, node);
  }
  KVSIM_FN KVSIM_APART void unlink(std::size_t place) {
    Node* const node = sorted_[place];
    if (node->before != nullptr) node->before->after = node->after;
    if (node->after != nullptr) node->after->before = node->before;
    sorted_.erase(sorted_.begin() + place);
  }

  Vector<Node*> sorted_;
};

template <class Key, class Value>
KVSIM_FN typename Map<Key, Value>::iterator rekey(Map<Key, Value>& map, typename Map<Key, Value>::iterator place,
                                                  const Key& key) {
  return map.rekey(place, key);
}

template <class Key, class Value>
using HashMap = Map<Key, Value>;

namespace algorithms {

template <class Iterator, class Value>
KVSIM_FN Iterator find(Iterator first, Iterator last, const Value& value) {
  while (first != last && !(*first == value)) ++first;
  return first;
}

template <class Iterator, class Suits>
KVSIM_FN Iterator find_if(Iterator first, Iterator last, Suits suits) {
  while (first != last && !suits(*first)) ++first;
  return first;
}

template <class Iterator, class Suits>
KVSIM_FN bool all_of(Iterator first, Iterator last, Suits suits) {
  for (; first != last; ++first) {
    if (!suits(*first)) return false;
  }
  return true;
}

template <class Iterator, class Value>
KVSIM_FN Iterator upper_bound(Iterator first, Iterator last, const Value& value) {
  while (first != last) {
    const Iterator middle = first + (last - first) / 2;
    if (value < *middle) {
      last = middle;
    } else {
      first = middle + 1;
    }
  }
  return first;
}

template <class One, class Other, class Alike>
KVSIM_FN bool equal(One one, One one_end, Other other, Other other_end, Alike alike) {
  for (; one != one_end && other != other_end; ++one, ++other) {
    if (!alike(*one, *other)) return false;
  }
  return one == one_end && other == other_end;
}

template <class Iterator>
KVSIM_FN Iterator prev(Iterator place) {
  return --place;
}

template <class Iterator>
KVSIM_FN Iterator next(Iterator place) {
  return ++place;
}

// Heaps: no order of which more than the top is asked for.

template <class Iterator, class Below>
KVSIM_FN KVSIM_APART void sift_up(Iterator heap, std::ptrdiff_t at, Below below) {
  while (at > 0) {
    const std::ptrdiff_t above = (at - 1) / 2;
    if (!below(heap[above], heap[at])) return;
    auto value = heap[at];
    heap[at] = heap[above];
    heap[above] = value;
    at = above;
  }
}

template <class Iterator, class Below>
KVSIM_FN KVSIM_APART void sift_down(Iterator heap, std::ptrdiff_t at, std::ptrdiff_t size, Below below) {
  for (;;) {
    std::ptrdiff_t top = 2 * at + 1;
    if (top >= size) return;
    if (top + 1 < size && below(heap[top], heap[top + 1])) ++top;
    if (!below(heap[at], heap[top])) return;
    auto value = heap[at];
    heap[at] = heap[top];
    heap[top] = value;
    at = top;
  }
}

template <class Iterator, class Below>
KVSIM_FN void push_heap(Iterator first, Iterator last, Below below) {
  sift_up(first, last - first - 1, below);
}

template <class Iterator, class Below>
KVSIM_FN void pop_heap(Iterator first, Iterator last, Below below) {
  const std::ptrdiff_t size = last - first;
  auto top = first[0];
  first[0] = first[size - 1];
  first[size - 1] = top;
  sift_down(first, 0, size - 1, below);
}

template <class Iterator, class Below>
KVSIM_FN void make_heap(Iterator first, Iterator last, Below below) {
  const std::ptrdiff_t size = last - first;
  for (std::ptrdiff_t at = size / 2; at-- > 0;) sift_down(first, at, size, below);
}

}  // namespace algorithms

template <class Value>
class Owner {
 public:
  KVSIM_FN Owner(std::nullptr_t = nullptr) {}
  KVSIM_FN explicit Owner(Value* value) : value_(value) {}
  KVSIM_FN Owner(Owner&& other) noexcept : value_(other.value_) { other.value_ = nullptr; }
  Owner& operator=(const Owner&) = delete;
  KVSIM_FN ~Owner() {
    if (value_ != nullptr) end_in_arena(value_);
  }

  KVSIM_FN Value* get() const { return value_; }
  KVSIM_FN Value* operator->() const { return value_; }
  KVSIM_FN Value& operator*() const { return *value_; }
  KVSIM_FN bool operator!=(std::nullptr_t) const { return value_ != nullptr; }
  KVSIM_FN bool operator==(std::nullptr_t) const { return value_ == nullptr; }

 private:
  Value* value_ = nullptr;
};

template <class Value, class... Arguments>
KVSIM_FN Owner<Value> make_owner(Arguments&&... arguments) {
  return Owner<Value>(make_in_arena<Value>(std::forward<Arguments>(arguments)...));
}

}  // namespace kvsim
