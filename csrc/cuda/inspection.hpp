// The checks of a batch on the device: those of kvsim/_door.py, and what else pricing wants to know.
#pragma once

#include "../turns.hpp"
#include "launch.hpp"

namespace kvsim::cuda {

// Bounds of kvsim/_door.py.
constexpr i64 kMostTokens = i64{1} << 30;
constexpr i64 kMostNs = 100'000'000'000'000'000;

// In the order in which a row is checked.
enum Check : i64 {
  kTrajectoryCheck,
  kParentCheck,
  kPromptCheck,
  kOutputCheck,
  kKeptCheck,
  kPauseCheck,
  kArrivalCheck,
  kAfterCheck,
  kWaitsCheck,
  kCachedCheck,
  kChecks,
};

// All numbers are raised or added up by many threads, `fault` is lowered.
struct Findings {
  unsigned long long fault;  // row * kChecks + check, all ones where there is none
  unsigned long long most_prompt, most_output, most_tokens, last_arrival_ns, last_trajectory;
  unsigned long long pauses;    // in 2^20 ns, each rounded up
  unsigned long long unsorted;  // rows whose trajectory neither goes on nor is the next
  unsigned long long backward;  // rows that stand before one they depend on
  unsigned long long across;    // rows that depend on another trajectory
};

void launch_inspection(const Turns& turns, i64 waited, Findings* findings, cudaStream_t stream);

// Trajectories stand side by side in order: where each of them starts, and that unit t is trajectory t.
void launch_marking(const Turns& turns, i64* starts, i64* trajectory_starts, cudaStream_t stream);

// Every turn cut to so many tokens, the prompt first.
void launch_cutting(const Turns& turns, i64 tokens, i64* kept, i64* prompt, i64* output, cudaStream_t stream);

}  // namespace kvsim::cuda
