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

// Clears totals, for units whose trajectories stand anywhere.
void launch_clearing(i64 trajectories, const PriceView& prices, cudaStream_t stream);

// Queues the pricing of units.
void launch_pricing(const Rates& rates, const i64* step, const Turns& turns, const UnitView& units,
                    const PriceView& prices, cudaStream_t stream);

// Queues the PTE of rows [first, end).
void launch_pte(const PteRates& rates, const Turns& turns, i64 first, i64 end, const PriceColumns& columns, double* pte,
                cudaStream_t stream);

// Trajectory t has the rows[starts[t]] to rows[starts[t + 1] - 1] (rows null: those numbers themselves).
void launch_sums(i64 trajectories, const i64* starts, const i64* rows, const double* values, double* sums,
                 cudaStream_t stream);

// Values of results in their units: (plus[0] + plus[1] + plus[2] - minus) or amount * scale, / 10^9, times both
// factors; `nowhere` where it is unknown. What is null is not there.
struct Scaling {
  const i64* plus[3] = {nullptr, nullptr, nullptr};
  const i64* minus = nullptr;
  i64 stride = 1;
  const double* amount = nullptr;
  double scale = 1.0;
  double factors[2] = {1.0, 1.0};
  const i64* unknown_counts = nullptr;  // with the same stride
  const std::int8_t* unknown_status = nullptr;
  double nowhere = 0.0;
};

void launch_scaling(const Scaling& scaling, i64 count, double* values, cudaStream_t stream);

}  // namespace kvsim::cuda
