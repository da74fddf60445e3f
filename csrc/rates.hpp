// The cost of a prefill and of a stretch of decoding, seen from one turn under a declared load, in integers.
//
// Every coefficient is a whole number of 2^-fraction_bits nanoseconds, so that sums are exact in any order and every
// backend gives the same bits. kvsim/backends/rates.py makes these numbers from a law; csrc and kernels.py use them.
#pragma once

#include <cstdint>

// KVSIM_HD is for what hosts and devices both run and hosts always inline, KVSIM_FN for the rest of what both run;
// KVSIM_ONCE, of that, for long functions that are called in one place: a host spares itself the call.
#if defined(__CUDACC__)
#define KVSIM_HD __host__ __device__ __forceinline__
#define KVSIM_FN __host__ __device__
#define KVSIM_ONCE KVSIM_FN
#else
#define KVSIM_HD inline __attribute__((always_inline))
#define KVSIM_FN
#define KVSIM_ONCE KVSIM_FN __attribute__((always_inline))
#endif
// A condition that nearly always holds.
#define KVSIM_MOSTLY(condition) __builtin_expect(static_cast<bool>(condition), 1)
#define KVSIM_UNREACHABLE() __builtin_unreachable()

namespace kvsim {

using i64 = std::int64_t;

KVSIM_HD i64 min_of(i64 a, i64 b) { return a < b ? a : b; }
KVSIM_HD i64 max_of(i64 a, i64 b) { return a > b ? a : b; }

// How KV survives a pause.
enum Survival : i64 { kNever = 0, kAlways = 1, kTtl = 2, kLru = 3, kLogged = 4, kNoCache = 5 };

// One attention group: all layers with full attention, or all with a sliding window.
struct GroupRates {
  i64 pair = 0;     // per (query, key) pair of a prefill chunk
  i64 context = 0;  // per context token that a prefill chunk reads
  i64 decode = 0;   // per context token of a sequence decoding among all of the load
  i64 beside = 0;   // per context token of the others that decode beside a prefill chunk
};

// kvsim.backends.kernels.Rates says the same, field by field.
struct Rates {
  i64 fraction_bits = 0;
  i64 chunk = 0;         // most prompt tokens of the turn in one step
  i64 chunk_step = 0;    // a step that prefills a whole chunk, attention apart
  i64 prefill_step = 0;  // to add to step[tokens] for the step of the last chunk, attention apart
  i64 decode_step = 0;   // a step in which all of the load decode, attention apart
  GroupRates full;
  GroupRates windowed;
  i64 window = 0;         // tokens that a query of the windowed group sees; 0: there is no such group
  i64 others = 0;         // sequences that share the turn's steps
  i64 mean_context = -1;  // context of each of them; -1: the same as the turn's
  i64 block_size = 0;     //
  i64 block_shift = -1;   // log2(block_size), or -1 where it is no power of two
  i64 usable_blocks = 0;  //
  i64 max_model_len = 0;  //
  i64 survival = kNever;  //
  i64 ttl_ns = 0;         //
  i64 churn_ns = 0;       // kLru: the other traffic takes one block in this time
};

// Rounds a fixed-point time to whole nanoseconds, half up.
KVSIM_HD i64 to_ns(const Rates& rates, i64 time) {
  return (time + ((i64{1} << rates.fraction_bits) >> 1)) >> rates.fraction_bits;
}

// Sum over k = 1..count of min(start + k * stride, cap), for start >= 0 and stride >= 1.
KVSIM_HD i64 sum_capped(i64 start, i64 stride, i64 count, i64 cap) {
  const i64 below = start >= cap ? 0 : min_of((cap - start) / stride, count);
  return below * start + stride * (below * (below + 1) / 2) + (count - below) * cap;
}

KVSIM_HD i64 full_blocks(const Rates& rates, i64 tokens) {
  return rates.block_shift >= 0 ? tokens >> rates.block_shift : tokens / rates.block_size;
}

KVSIM_HD i64 blocks_for(const Rates& rates, i64 tokens) { return full_blocks(rates, tokens + rates.block_size - 1); }

// Fixed-point time of prefilling `count` tokens after `cached` ones, in chunks, the others decoding beside it.
// `step` is the law's table of a step's time by tokens, from where the others' tokens are counted already.
KVSIM_HD i64 prefill_time(const Rates& rates, const i64* step, i64 cached, i64 count) {
  const i64 prompt = cached + count;
  i64 whole = 0, last = count;
  if (count > rates.chunk) {
    whole = (count - 1) / rates.chunk;
    last = count - whole * rates.chunk;
  }
  i64 time = step[last] + rates.prefill_step + whole * rates.chunk_step;
  time += rates.full.pair * (count * cached + count * (count + 1) / 2);
  time += rates.full.context * (whole * cached + rates.chunk * (whole * (whole + 1) / 2) + prompt);
  const i64 beside = rates.mean_context >= 0 ? rates.mean_context : prompt;
  time += (whole + 1) * (rates.full.beside * beside);
  if (rates.window > 0) {
    const i64 read =
        sum_capped(cached, rates.chunk, whole, rates.window + rates.chunk) + min_of(prompt, rates.window + last);
    time += rates.windowed.pair * sum_capped(cached, 1, count, rates.window);
    time += rates.windowed.context * read;
    time += (whole + 1) * (rates.windowed.beside * min_of(beside, rates.window));
  }
  return time;
}

// Fixed-point time of `steps` decode steps from a context of `prompt` tokens, the others decoding too.
KVSIM_HD i64 decode_time(const Rates& rates, i64 prompt, i64 steps) {
  const i64 own = steps * prompt + steps * (steps + 1) / 2;
  const i64 beside = rates.mean_context >= 0 ? steps * rates.mean_context : own;
  i64 time = steps * rates.decode_step + rates.full.decode * (own + rates.others * beside);
  if (rates.window > 0) {
    const i64 own_read = sum_capped(prompt, 1, steps, rates.window);
    const i64 beside_read = rates.mean_context >= 0 ? steps * min_of(rates.mean_context, rates.window) : own_read;
    time += rates.windowed.decode * (own_read + rates.others * beside_read);
  }
  return time;
}

}  // namespace kvsim
