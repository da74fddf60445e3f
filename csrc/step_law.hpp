// How long a step takes, in whole numbers of 2^-fraction_bits nanoseconds (kvsim/law.py makes the tables).
#pragma once

#include <cmath>

#include "rates.hpp"

namespace kvsim {

// One attention group: all layers with full attention, or all with a sliding window.
struct GroupLaw {
  i64 pair = 0;
  i64 context = 0;
  const i64* decode = nullptr;  // by sequences decoding
  const i64* mixed = nullptr;   // in place of decode in steps that also have a chunk
};

struct StepLaw {
  i64 fraction_bits = 0;
  const i64* step = nullptr;       // by tokens
  const i64* sequences = nullptr;  // by sequences
  i64 window = 0;                  // 0: no windowed group
  i64 tile_keys = 0;               // context that each sequence decoding beside a chunk seems to read on top
  GroupLaw full;
  GroupLaw windowed;

  // Attention of `count` prompt tokens after `before` ones: pairs and context read, each capped at the window.
  KVSIM_HD i64 chunk(i64 before, i64 count) const {
    i64 units = full.pair * (count * before + count * (count + 1) / 2) + full.context * (before + count);
    if (window > 0) {
      units += windowed.pair * sum_capped(before, 1, count, window);
      units += windowed.context * min_of(before + count, window + count);
    }
    return units;
  }

  // How much shorter a step would be without the part of a chunk that was in the cache once.
  KVSIM_HD i64 recompute(i64 before, i64 count, i64 hittable, i64 tokens, i64 in_step) const {
    const i64 again = min_of(before + count, hittable) - before;
    if (again <= 0) return 0;
    i64 units = step[tokens] - step[tokens - again] + chunk(before, count);
    if (again < count) {
      units -= chunk(before + again, count - again);
    } else {
      units += sequences[in_step] - sequences[in_step - 1];
    }
    return max_of(units, 0);
  }
};

// Steps in which the same sequences decode one token each: the time of the first n of them in closed form.
struct DecodeStretch {
  i64 first = 0;   // what the first step takes
  i64 growth = 0;  // how much longer each further step is

  KVSIM_FN i64 units(i64 n) const { return (n * (2 * first + growth * (n - 1))) >> 1; }

  // The stretch from its n-th further step on.
  KVSIM_FN void skip(i64 n) { first += n * growth; }

  // At most `most` steps, and so few that their time cannot overflow.
  KVSIM_FN i64 within_horizon(i64 most) const {
    const i64 longest = first + most * growth;
    if (static_cast<double>(most) * static_cast<double>(longest) < static_cast<double>(i64{1} << 60)) return most;
    return min_of(most, max_of((i64{1} << 61) / max_of(longest, 1), 1));
  }

  // The fewest steps, at most `most`, that take at least `units_wanted`.
  KVSIM_FN i64 steps_until(i64 units_wanted, i64 most) const {
    // The root of the quadratic, within a step or so of the answer whatever the rounding.
    const double wanted = static_cast<double>(max_of(units_wanted, 0)),
                 linear = static_cast<double>(2 * first - growth);
    const double root = 4 * wanted / (linear + sqrt(linear * linear + 8 * wanted * static_cast<double>(growth)));
    i64 steps = root < static_cast<double>(most) ? max_of(static_cast<i64>(root), 1) : most;  // most if it is none
    while (steps < most && units(steps) < units_wanted) ++steps;
    while (steps > 1 && units(steps - 1) >= units_wanted) --steps;
    return steps;
  }
};

}  // namespace kvsim
