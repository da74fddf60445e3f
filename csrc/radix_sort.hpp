// Numbers in rising order, digit by digit: for times of a run, of which there are many of few bits.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "rates.hpp"

namespace kvsim {

inline constexpr std::size_t kFewNumbers = 512;  // with fewer, comparing them is faster

// `scratch` gets as long as the numbers.
inline void radix_sort(std::vector<i64>& numbers, std::vector<i64>& scratch) {
  if (numbers.size() < kFewNumbers) {
    std::sort(numbers.begin(), numbers.end());
    return;
  }
  constexpr int kDigitBits = 11;
  constexpr std::uint64_t kDigits = std::uint64_t{1} << kDigitBits;
  const auto [least, most] = std::minmax_element(numbers.begin(), numbers.end());
  const std::uint64_t base = static_cast<std::uint64_t>(*least), range = static_cast<std::uint64_t>(*most) - base;
  scratch.resize(numbers.size());
  for (int shift = 0; shift < 64 && (range >> shift) != 0; shift += kDigitBits) {
    const auto digit = [&](i64 number) { return ((static_cast<std::uint64_t>(number) - base) >> shift) % kDigits; };
    std::array<std::size_t, kDigits + 1> place{};
    for (const i64 number : numbers) ++place[digit(number) + 1];
    for (std::uint64_t d = 0; d < kDigits; ++d) place[d + 1] += place[d];
    for (const i64 number : numbers) scratch[place[digit(number)]++] = number;
    numbers.swap(scratch);
  }
}

}  // namespace kvsim
