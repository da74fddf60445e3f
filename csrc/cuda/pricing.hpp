// Batches in host memory priced on a device: one shipment copied while another one is computed.
#pragma once

#include "../pte.hpp"
#include "units.hpp"

namespace kvsim::cuda {

// Where results go in host memory, in the batch's own numbers of rows and trajectories; what is null is not wanted.
struct Prices {
  Totals* totals = nullptr;
  double* held_block_ns = nullptr;
  PriceColumns columns;
  double* pte = nullptr;
};

// The law's numbers for a load.
struct Law {
  Rates rates;
  const i64* step = nullptr;
  i64 steps = 0;  // entries of `step`
};

// Prices every row; so many threads of the host copy. Throws DeviceError where the device fails, or has no room for the
// largest unit.
void price(const Law& law, const PteRates& pte, const Units& units, const Prices& prices, i64 threads);

// Gives back what is kept between calls.
void release_memory();

}  // namespace kvsim::cuda
