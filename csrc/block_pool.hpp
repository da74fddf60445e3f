// vLLM's KV-cache pool block by block, for any KV groups: sliding windows alone, or beside full attention.
//
// The rules are those of kvsim/backends/engine_kernels.py. Each group has blocks of its own for every context, all
// from one pool; a request's table has as many places for each group, null where the group's window has passed.
// Kept otherwise than there:
//  - Free blocks without a key stand before those with one and are alike, so that they are a stack.
//  - Keys are places in chains. A group of full attention knows a prefix of each chain (see Pool), so that a lookup
//    compares one count for each chain; a window's blocks are looked up one by one, from the right.
#pragma once

#include "chains.hpp"
#include "containers.hpp"
#include "evictions.hpp"
#include "host_tier.hpp"
#include "settings.hpp"

namespace kvsim {

class BlockPool {
 public:
  // What a request holds.
  struct Holding {
    i32 chain = -1;    // its context ends in this chain
    i32 held = 0;      // places in each group
    i32 keyed = 0;     // of those, how many have had their turn to get their key
    i32 table = -1;    // number of its table
    i32 replay = 0;    // full blocks before the prompt's last token
    i32 junction = 0;  // where it leaves a prefix that some groups know further than others
    i32 used = 0;      // blocks in all groups
    KVSIM_FN i64 blocks() const { return held; }
    KVSIM_FN i64 in_use() const { return used; }
  };

  // Blocks come and go while requests decode: their steps cannot be summed as one.
  static constexpr bool kStepwise = true;

  // Orders of eviction and a host tier are for pools of one group.
  KVSIM_FN BlockPool(const Chains& chains, const Settings& settings, bool /*ordered*/ = false,
                     HostTier* /*host*/ = nullptr)
      : shapes_(chains.shapes.data()),
        windows_(settings.windows),
        groups_(static_cast<i32>(settings.windows.size())),
        size_(settings.block_size),
        tokens_under_way_(settings.max_num_batched_tokens * (1 + settings.async_scheduling)),
        retention_(settings.retention),
        free_(settings.num_gpu_blocks - 1),
        blocks_(settings.num_gpu_blocks),
        known_(chains.shapes.size() * windows_.size(), 0),
        chains_(chains.shapes.size()) {
    for (const i64 window : windows_) reach_.push_back((window - 1 + size_ - 1) / size_);
    for (const i64 window : windows_) {
      const auto same = algorithms::find(kinds_.begin(), kinds_.end(), window);
      kind_of_.push_back(static_cast<i32>(same - kinds_.begin()));
      if (same == kinds_.end()) kinds_.push_back(window);
    }
    leading_ = algorithms::find(kinds_.begin(), kinds_.end(), 0) == kinds_.end() ? windows_.front() : 0;
    for (i64 block = settings.num_gpu_blocks - 1; block > 0; --block) plain_.push_back(static_cast<i32>(block));
  }

  // From now on, what is evicted is written down.
  KVSIM_FN void keep(EvictionLog* log) { log_ = log; }

  KVSIM_FN i64 free_blocks() const { return free_; }
  KVSIM_FN i64 evicted() const { return evicted_; }
  KVSIM_FN i64 groups() const { return groups_; }

  KVSIM_FN Holding holding_for(i32 chain, i64 prompt) const {
    Holding holding;
    holding.chain = chain;
    holding.replay = static_cast<i32>((prompt - 1) / size_);
    return holding;
  }

  // How many of a context's first `most` blocks all groups could be spared; notes the junction.
  KVSIM_FN i64 hits(Holding& holding, i64 most) const {
    holding.junction = 0;
    if (retention_ == kNoCaching) return 0;
    const auto known = [this](i32 chain, i64 place, i32 group) { return first(chain, place, group) != 0; };
    const auto end = [this](i32 chain, i32 group) { return shapes_[chain].start + known_[chain * groups_ + group]; };
    const i64 furthest = agreed(holding.chain, most, known, end, leading_);
    const i64 found = agreed(holding.chain, furthest, known, end, kAll);
    if (found < furthest) holding.junction = static_cast<i32>(furthest);
    return found;
  }

  // The same if no block had ever lost its key, in tokens.
  KVSIM_FN i64 hittable(const Holding& holding, i64 most, i64) const {
    const auto once = [this](i32 chain, i64 place, i32 group) {
      const Vector<bool>& marks = chains_[chain].once;
      const std::size_t at = (place - shapes_[chain].start) * kinds_.size() + kind_of_[group];
      return at < marks.size() && marks[at];
    };
    const auto end = [this](i32 chain, i32) { return shapes_[chain].start + chains_[chain].once_full; };
    return agreed(holding.chain, most, once, end, kAll) * size_;
  }

  // How many of the blocks that `count` hits would take stand in the free queue.
  KVSIM_FN i64 idle_hits(const Holding& holding, i64 count) const {
    i64 idle = 0;
    for (i32 group = 0; group < groups_; ++group) {
      i32 chain = holding.chain;
      for (i64 place = count - 1; place >= passed(group, count * size_); --place) {
        chain = chain_at(chain, place);
        idle += blocks_[first(chain, place, group)].held_by == 0;
      }
    }
    return idle;
  }

  // Blocks that a request with `found` hits must find free: for its first `now` places, and all it may hold at a time
  // until it has `in_all`.
  KVSIM_FN i64 demand(i64 found, i64 now, i64 in_all) const {
    i64 reserved = 0;
    for (const i64 window : windows_) {
      i64 longest = in_all;
      if (window > 0) longest = min_of(longest, (window - 1 + tokens_under_way_ + size_ - 1) / size_ + 1);
      reserved += max_of(longest - found, 0);
    }
    return max_of(groups_ * (now - found), reserved);
  }

  // New blocks that a request takes to have so many places.
  KVSIM_FN i64 takes(const Holding& holding, i64 blocks) const { return groups_ * max_of(blocks - holding.held, 0); }

  // Takes what `count` hits need.
  KVSIM_FN void touch(Holding& holding, i64 count) {
    Vector<i32>& table = table_of(holding);
    table.assign(count * groups_, 0);
    for (i32 group = 0; group < groups_; ++group) {
      i32 chain = holding.chain;
      for (i64 place = count - 1; place >= passed(group, count * size_); --place) {
        chain = chain_at(chain, place);
        const i32 block = first(chain, place, group);
        if (blocks_[block].held_by == 0) unlink(block);
        blocks_[block].held_by += 1;
        ++holding.used;
        table[place * groups_ + group] = block;
      }
    }
    holding.held = holding.keyed = static_cast<i32>(count);
  }

  // Takes blocks from the front of the free queue until the request has so many places in each group.
  KVSIM_FN void allocate(Holding& holding, i64 blocks) {
    Vector<i32>& table = table_of(holding);
    table.resize(blocks * groups_);
    for (i32 group = 0; group < groups_; ++group) {
      for (i64 place = holding.held; place < blocks; ++place) table[place * groups_ + group] = take();
    }
    holding.used += static_cast<i32>(takes(holding, blocks));
    holding.held = static_cast<i32>(blocks);
  }

  // The first `full` blocks of the request are full: those that are worth it get their keys.
  KVSIM_FN void give_keys(Holding& holding, i64 full) {
    const Vector<i32>& table = table_of(holding);
    for (i32 group = 0; group < groups_; ++group) {
      const i64 window = windows_[group], reach = reach_[group];
      i32 chain = holding.chain;
      for (i64 place = full - 1; place >= holding.keyed; --place) {
        const bool replayed = holding.replay - reach <= place && place < holding.replay;
        const bool shared = holding.junction - reach <= place && place < holding.junction;
        if (window > 0 && !replayed && !shared) continue;
        chain = chain_at(chain, place);
        mark_once(chain, place, group);
        if (retention_ != kNoCaching) give_key(table[place * groups_ + group], chain, place, group);
      }
    }
    holding.keyed = static_cast<i32>(full);
  }

  // Gives back what the windows have passed when so many tokens are computed.
  KVSIM_FN void pass(Holding& holding, i64 computed) {
    if (holding.table < 0) return;
    for (i32 group = 0; group < groups_; ++group) {
      if (windows_[group] > 0) give_back_before(holding, group, min_of(passed(group, computed), holding.held));
    }
  }

  // Moves what one request holds to another that holds nothing.
  KVSIM_FN void hand_over(Holding& from, Holding& to) {
    to = from;
    from.table = -1;
    from.held = from.keyed = from.used = 0;
  }

  // Nothing points to it.
  KVSIM_FN void moved(Holding&) {}

  // Gives everything back.
  KVSIM_FN void release(Holding& holding, i64 /*next_use*/ = 0) {
    if (holding.table >= 0) {
      for (i32 group = 0; group < groups_; ++group) give_back_before(holding, group, holding.held);
      tables_[holding.table].clear();
      unused_tables_.push_back(holding.table);
    }
    holding.table = -1;
    holding.held = holding.keyed = 0;
  }

 private:
  static constexpr i64 kAll = -1;

  struct Block {
    i32 earlier = 0, later = 0;  // in the free queue, while idle with a key
    i32 held_by = 0;
    i32 chain = -1;  // with place and group the key, -1 none
    i32 place = 0;
    i32 group = 0;
    i32 same_key = 0;  // the block that got the same key next
  };
  struct ChainState {
    Vector<i32> first;  // by place and group: the first block that got the key and still has it, 0 none
    Vector<bool> once;  // by place and kind of window: whether any block ever got the key
    i32 once_full = 0;  // likewise for full attention: so many from the chain's start
  };

  // ---- Contexts ----

  KVSIM_FN i32 chain_at(i32 chain, i64 place) const {
    while (place < shapes_[chain].start) chain = shapes_[chain].above;
    return chain;
  }

  KVSIM_FN i32 first(i32 chain, i64 place, i32 group) const {
    const Vector<i32>& blocks = chains_[chain].first;
    const std::size_t at = (place - shapes_[chain].start) * groups_ + group;
    return at < blocks.size() ? blocks[at] : 0;
  }

  // The first place that a group still needs when so many tokens are computed.
  KVSIM_FN i64 passed(i32 group, i64 computed) const {
    return windows_[group] == 0 ? 0 : max_of(computed - windows_[group] + 1, 0) / size_;
  }

  // The most places that all groups with this window (kAll: all groups) could be spared.
  template <class Known, class End>
  KVSIM_FN i64 agreed(i32 chain, i64 most, const Known& known, const End& end, i64 window) const {
    for (bool shrunk = true; shrunk;) {
      shrunk = false;
      for (i32 group = 0; group < groups_; ++group) {
        if (window != kAll && windows_[group] != window) continue;
        const i64 spared =
            windows_[group] == 0 ? known_prefix(chain, most, end, group) : known_window(chain, most, known, group);
        shrunk = shrunk || spared < most;
        most = spared;
      }
    }
    return most;
  }

  template <class End>
  KVSIM_FN i64 known_prefix(i32 chain, i64 most, const End& end, i32 group) const {
    for (; chain >= 0; chain = shapes_[chain].above) {
      if (end(chain, group) > shapes_[chain].start) return min_of(most, end(chain, group));
      most = min_of(most, shapes_[chain].start);
    }
    return 0;
  }

  template <class Known>
  KVSIM_FN i64 known_window(i32 chain, i64 most, const Known& known, i32 group) const {
    i64 together = 0;
    for (i64 place = most - 1; place >= 0; --place) {
      chain = chain_at(chain, place);
      if (!known(chain, place, group)) {
        together = 0;
      } else if (++together >= reach_[group]) {
        return place + together;
      }
    }
    return together;
  }

  // ---- Keys ----

  KVSIM_FN void mark_once(i32 chain, i64 place, i32 group) {
    ChainState& state = chains_[chain];
    const i64 offset = place - shapes_[chain].start;
    if (windows_[group] == 0) {
      state.once_full = static_cast<i32>(max_of(state.once_full, offset + 1));
      return;
    }
    const std::size_t at = offset * kinds_.size() + kind_of_[group];
    if (at >= state.once.size()) state.once.resize(max_of(at + 1, 2 * state.once.size()));
    state.once[at] = true;
  }

  // Keys are not unique: the block stands behind all that have the same one.
  KVSIM_FN void give_key(i32 block, i32 chain, i64 place, i32 group) {
    Vector<i32>& firsts = chains_[chain].first;
    const std::size_t at = (place - shapes_[chain].start) * groups_ + group;
    if (at >= firsts.size()) firsts.resize(max_of(at + 1, 2 * firsts.size()), 0);
    blocks_[block].chain = chain;
    blocks_[block].place = static_cast<i32>(place);
    blocks_[block].group = group;
    blocks_[block].same_key = 0;
    if (firsts[at] == 0) {
      firsts[at] = block;
      known_[chain * groups_ + group] += 1;
      return;
    }
    i32 last = firsts[at];
    while (blocks_[last].same_key != 0) last = blocks_[last].same_key;
    blocks_[last].same_key = block;
  }

  // The block cannot be hit any more.
  KVSIM_FN void take_key(i32 block) {
    const i32 chain = blocks_[block].chain, group = blocks_[block].group;
    Vector<i32>& firsts = chains_[chain].first;
    i32& first = firsts[(blocks_[block].place - shapes_[chain].start) * groups_ + group];
    if (first == block) {
      first = blocks_[block].same_key;
    } else {
      i32 other = first;
      while (blocks_[other].same_key != block) other = blocks_[other].same_key;
      blocks_[other].same_key = blocks_[block].same_key;
    }
    blocks_[block].chain = -1;
    if (first != 0) return;
    i32* known = &known_[chain * groups_];
    known[group] -= 1;
    if (algorithms::all_of(known, known + groups_, [](i32 count) { return count == 0; })) Vector<i32>().swap(firsts);
  }

  // ---- The free queue: the stack of blocks without keys, then the ring through block 0 ----

  KVSIM_FN void unlink(i32 block) {
    blocks_[blocks_[block].earlier].later = blocks_[block].later;
    blocks_[blocks_[block].later].earlier = blocks_[block].earlier;
    --free_;
  }

  KVSIM_FN i32 take() {
    i32 block;
    if (!plain_.empty()) {
      block = plain_.back();
      plain_.pop_back();
      --free_;
    } else {
      block = blocks_[0].later;
      unlink(block);
      if (log_ != nullptr) {
        const Block& gone = blocks_[block];
        log_->note(gone.chain, gone.group, gone.place, gone.place + 1);
      }
      take_key(block);
      ++evicted_;
    }
    blocks_[block].held_by = 1;
    return block;
  }

  KVSIM_FN void give_back(i32 block) {
    if (--blocks_[block].held_by > 0) return;
    ++free_;
    if (blocks_[block].chain >= 0 && retention_ == kDrop) take_key(block);
    if (blocks_[block].chain < 0) {
      plain_.push_back(block);
      return;
    }
    const i32 last = blocks_[0].earlier;
    blocks_[block].earlier = last;
    blocks_[block].later = 0;
    blocks_[last].later = blocks_[0].earlier = block;
  }

  // Gives back a group's blocks before `end`, the last first; before one that is back already, all are.
  KVSIM_FN void give_back_before(Holding& holding, i32 group, i64 end) {
    Vector<i32>& table = tables_[holding.table];
    for (i64 place = end - 1; place >= 0 && table[place * groups_ + group] != 0; --place) {
      give_back(table[place * groups_ + group]);
      --holding.used;
      table[place * groups_ + group] = 0;
    }
  }

  KVSIM_FN Vector<i32>& table_of(Holding& holding) {
    if (holding.table < 0) {
      if (unused_tables_.empty()) {
        unused_tables_.push_back(static_cast<i32>(tables_.size()));
        tables_.emplace_back();
      }
      holding.table = unused_tables_.back();
      unused_tables_.pop_back();
    }
    return tables_[holding.table];
  }

  const ChainShape* shapes_;
  Vector<i64> windows_;
  i32 groups_;
  i64 size_;
  i64 tokens_under_way_;
  i64 retention_;
  i64 free_;
  i64 evicted_ = 0;
  EvictionLog* log_ = nullptr;
  Vector<i64> reach_;    // by group: blocks before a token that its window reaches into, if the token begins one
  Vector<i64> kinds_;    // the windows that differ
  Vector<i32> kind_of_;  // by group
  i64 leading_;          // the window of the groups that say how far a context is known at all
  Vector<Block> blocks_;
  Vector<i32> plain_;
  Vector<i32> known_;  // by chain and group: keys that blocks have
  Vector<ChainState> chains_;
  Vector<Vector<i32>> tables_;  // by place and group
  Vector<i32> unused_tables_;
};

}  // namespace kvsim
