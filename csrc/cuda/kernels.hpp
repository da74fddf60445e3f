// The kernels of pricing: one thread a unit, one thread a row for PTE.
#pragma once

#include "../pte.hpp"
#include "launch.hpp"

namespace kvsim::cuda {

// Which units a launch prices, and where they are: unit u has the rows [starts[u], starts[u + 1]), and trajectories
// likewise. Without trajectory_starts all totals have been cleared, and trajectories stand anywhere.
struct UnitView {
  i64 first = 0;
  i64 end = 0;
  const i64* starts = nullptr;
  const i64* trajectory_starts = nullptr;
};

// What a launch prices into; columns of turns may be null.
struct PriceView {
  i64* finish_ns = nullptr;
  Totals* totals = nullptr;
  double* held_block_ns = nullptr;
  PriceColumns columns;
};

// Queues the pricing of units.
void launch_pricing(const Rates& rates, const i64* step, const Turns& turns, const UnitView& units,
                    const PriceView& prices, cudaStream_t stream);

// Queues the PTE of rows [first, end).
void launch_pte(const PteRates& rates, const Turns& turns, i64 first, i64 end, const PriceColumns& columns, double* pte,
                cudaStream_t stream);

}  // namespace kvsim::cuda
