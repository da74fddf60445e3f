#include "kernels.hpp"

namespace kvsim::cuda {

namespace {

template <i64 kSurvival, bool kWithTurns>
__global__ void __launch_bounds__(kThreads)
    price_units(Rates rates, const i64* step, Turns turns, UnitView units, PriceView prices) {
  const i64 unit = units.first + thread_number();
  if (unit >= units.end) return;
  i64 first = turns.trajectories, end = turns.trajectories;
  if (units.trajectory_starts != nullptr) {
    first = units.trajectory_starts[unit];
    end = units.trajectory_starts[unit + 1];
  }
  RunningTotals running(prices.totals, prices.held_block_ns, first, end);
  price_rows<kSurvival, kWithTurns, false>(rates, step, turns, units.starts[unit], units.starts[unit + 1],
                                           prices.finish_ns, running, prices.columns);
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
