// Pricing in numbers, as Python has them; and batches on the device.
#pragma once

#include "../bindings/arrays.hpp"
#include "../bindings/pte_rates.hpp"
#include "pricing.hpp"

namespace kvsim::cuda {

using bindings::pte_rates;

inline Law law_of(const Rates& rates, const bindings::IntArray& step) {
  bindings::require_length(step, rates.chunk + 1, "step");
  return {rates, step.data(), rates.chunk + 1};
}

void register_resident(pybind11::module_& module);

}  // namespace kvsim::cuda
