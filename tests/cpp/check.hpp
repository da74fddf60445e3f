// What the C++ tests share.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <random>

#include "../../csrc/rates.hpp"

#define CHECK_EQUAL(found, expected)                                                           \
  do {                                                                                         \
    const long long f = (found), e = (expected);                                               \
    if (f != e) {                                                                              \
      std::fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #found, f, e); \
      std::exit(1);                                                                            \
    }                                                                                          \
  } while (false)

using Random = std::mt19937_64;

inline kvsim::i64 draw(Random& random, kvsim::i64 low, kvsim::i64 high) {
  return std::uniform_int_distribution<kvsim::i64>(low, high)(random);
}
