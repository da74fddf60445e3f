// The containers of the engine, by one name on hosts and on CUDA devices.
//
// In the C++ core they are those of the standard library. The CUDA module, of which a thread of a device runs a whole
// simulation, has its own (arena_containers.hpp), which a kernel can compile and which take their memory from an arena.
#pragma once

#if defined(KVSIM_CUDA_MODULE)

#include "arena_containers.hpp"

#else

#include <algorithm>
#include <array>
#include <deque>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace kvsim {

template <class Value, std::size_t size>
using Array = std::array<Value, size>;
template <class Value>
using Vector = std::vector<Value>;
// Values stay where they are while others come and go at the ends.
template <class Value>
using Deque = std::deque<Value>;
template <class Value>
using List = std::list<Value>;
template <class Key, class Value>
using Map = std::map<Key, Value>;
template <class Key, class Value>
using HashMap = std::unordered_map<Key, Value>;
template <class Value>
using Owner = std::unique_ptr<Value>;

template <class Value, class... Arguments>
Owner<Value> make_owner(Arguments&&... arguments) {
  return std::make_unique<Value>(std::forward<Arguments>(arguments)...);
}

// Gives an entry another key, which no other has; the value stays where it is.
template <class Key, class Value>
typename Map<Key, Value>::iterator rekey(Map<Key, Value>& map, typename Map<Key, Value>::iterator place,
                                         const Key& key) {
  auto node = map.extract(place);
  node.key() = key;
  return map.insert(std::move(node)).position;
}

namespace algorithms = std;

}  // namespace kvsim

#endif
