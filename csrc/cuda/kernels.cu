#include "kernels.hpp"

namespace kvsim::cuda {

namespace {

// Rows of a unit that are fetched together. Threads walk through units far apart: row by row, all that they have in
// the caches pushes each other out, and memory delivers four rows for each.
constexpr i64 kTile = 4;

struct TiledColumn {
  const i64* all;
  const i64* tile;  // of all[first, first + kTile), kThreads apart
  i64 first;

  KVSIM_HD i64 operator[](i64 row) const {
    const auto at = static_cast<std::uint64_t>(row - first);
    return at < kTile ? tile[at * kThreads] : all[row];
  }
};

// Read like Turns.
struct TiledTurns {
  TiledColumn parent, after, kept, prompt, output, pause_ns, arrival_ns, trajectory;
  const i64* order;
  const i64* waits_offsets;
  const i64* waits_rows;
  const i64* shared;
  const i64* logged_cached;
};

constexpr int kTiledColumns = 8;
using Tiles = i64[kTiledColumns][kTile][kThreads];

// Fetches the rows [first, last), at most kTile, to where this thread has its place. All loads come before the first
// store, so that they are under way together.
__device__ TiledTurns fetch(const Turns& turns, i64 first, i64 last, Tiles& tiles) {
  const bool follows = turns.after == turns.parent;
  const i64* const from[kTiledColumns] = {turns.parent,   turns.kept,       turns.prompt,     turns.output,
                                          turns.pause_ns, turns.arrival_ns, turns.trajectory, turns.after};
  i64 fetched[kTiledColumns][kTile];
  for (int column = 0; column < kTiledColumns; ++column) {
    for (i64 k = 0; k < kTile; ++k) {
      const bool needed = first + k < last && (column != kTiledColumns - 1 || !follows);
      fetched[column][k] = needed ? from[column][first + k] : 0;
    }
  }
  TiledColumn made[kTiledColumns];
  for (int column = 0; column < kTiledColumns; ++column) {
    for (i64 k = 0; k < kTile; ++k) tiles[column][k][threadIdx.x] = fetched[column][k];
    made[column] = {from[column], &tiles[column][0][threadIdx.x], first};
  }
  return {made[0],
          follows ? made[0] : made[7],
          made[1],
          made[2],
          made[3],
          made[4],
          made[5],
          made[6],
          turns.order,
          turns.waits_offsets,
          turns.waits_rows,
          turns.shared,
          turns.logged_cached};
}

template <i64 kSurvival, bool kWithTurns>
__global__ void __launch_bounds__(kThreads)
    price_units(Rates rates, const i64* step, Turns turns, UnitView units, PriceView prices) {
  __shared__ Tiles tiles;
  const i64 unit = units.first + thread_number();
  if (unit >= units.end) return;
  i64 first = turns.trajectories, end = turns.trajectories;
  if (units.trajectory_starts != nullptr) {
    first = units.trajectory_starts[unit];
    end = units.trajectory_starts[unit + 1];
  }
  RunningTotals running(prices.totals, prices.held_block_ns, first, end);
  const i64 last = units.starts[unit + 1];
  if (turns.order != nullptr) {  // rows stand anywhere
    price_rows<kSurvival, kWithTurns, false>(rates, step, turns, units.starts[unit], last, prices.finish_ns, running,
                                             prices.columns);
  } else {
    for (i64 row = units.starts[unit]; row < last; row += kTile) {
      const i64 beyond = min_of(row + kTile, last);
      price_rows<kSurvival, kWithTurns, false>(rates, step, fetch(turns, row, beyond, tiles), row, beyond,
                                               prices.finish_ns, running, prices.columns);
    }
  }
  running.finish();
}

__global__ void __launch_bounds__(kThreads)
    weigh_rows(PteRates rates, Turns turns, i64 first, i64 end, PriceColumns columns, double* pte) {
  const i64 row = first + thread_number();
  if (row < end) pte[row] = pte_of(rates, turns.prompt[row], turns.output[row], columns, row);
}

__global__ void clear_totals(i64 trajectories, PriceView prices) {
  const i64 trajectory = thread_number();
  if (trajectory >= trajectories) return;
  prices.totals[trajectory] = Totals{};
  prices.held_block_ns[trajectory] = 0.0;
}

// In the order of rows, as numpy.bincount adds.
__global__ void sum_rows(i64 trajectories, const i64* starts, const i64* rows, const double* values, double* sums) {
  const i64 trajectory = thread_number();
  if (trajectory >= trajectories) return;
  double sum = 0.0;
  for (i64 place = starts[trajectory]; place < starts[trajectory + 1]; ++place) {
    sum += values[rows == nullptr ? place : rows[place]];
  }
  sums[trajectory] = sum;
}

__global__ void scale_values(Scaling scaling, i64 count, double* values) {
  const i64 i = thread_number();
  if (i >= count) return;
  const i64 at = i * scaling.stride;
  double value = 0.0;
  if (scaling.amount != nullptr) {
    value = scaling.amount[i] * scaling.scale;
  } else {
    i64 sum = 0;
    for (const i64* part : scaling.plus) sum += part == nullptr ? 0 : part[at];
    if (scaling.minus != nullptr) sum -= scaling.minus[at];
    value = static_cast<double>(sum);
  }
  value = value / 1e9 * scaling.factors[0] * scaling.factors[1];
  const bool unknown = (scaling.unknown_counts != nullptr && scaling.unknown_counts[at] > 0) ||
                       (scaling.unknown_status != nullptr && scaling.unknown_status[i] != kOk);
  values[i] = unknown ? scaling.nowhere : value;
}

template <i64 kSurvival>
void launch_survival(const Rates& rates, const i64* step, const Turns& turns, const UnitView& units,
                     const PriceView& prices, cudaStream_t stream) {
  const auto kernel = prices.columns.status != nullptr ? &price_units<kSurvival, true> : &price_units<kSurvival, false>;
  launch(kernel, units.end - units.first, stream, rates, step, turns, units, prices);
}

}  // namespace

void launch_pricing(const Rates& rates, const i64* step, const Turns& turns, const UnitView& units,
                    const PriceView& prices, cudaStream_t stream) {
  switch (rates.survival) {
    case kNever:
      return launch_survival<kNever>(rates, step, turns, units, prices, stream);
    case kAlways:
      return launch_survival<kAlways>(rates, step, turns, units, prices, stream);
    case kTtl:
      return launch_survival<kTtl>(rates, step, turns, units, prices, stream);
    case kLru:
      return launch_survival<kLru>(rates, step, turns, units, prices, stream);
    case kLogged:
      return launch_survival<kLogged>(rates, step, turns, units, prices, stream);
    case kNoCache:
      return launch_survival<kNoCache>(rates, step, turns, units, prices, stream);
  }
  throw DeviceError("unknown survival " + std::to_string(rates.survival));
}

void launch_pte(const PteRates& rates, const Turns& turns, i64 first, i64 end, const PriceColumns& columns, double* pte,
                cudaStream_t stream) {
  launch(&weigh_rows, end - first, stream, rates, turns, first, end, columns, pte);
}

void launch_clearing(i64 trajectories, const PriceView& prices, cudaStream_t stream) {
  launch(&clear_totals, trajectories, stream, trajectories, prices);
}

void launch_sums(i64 trajectories, const i64* starts, const i64* rows, const double* values, double* sums,
                 cudaStream_t stream) {
  launch(&sum_rows, trajectories, stream, trajectories, starts, rows, values, sums);
}

void launch_scaling(const Scaling& scaling, i64 count, double* values, cudaStream_t stream) {
  launch(&scale_values, count, stream, scaling, count, values);
}

}  // namespace kvsim::cuda
