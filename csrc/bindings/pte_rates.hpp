// kvsim.metrics.pte.Weights in numbers.
#pragma once

#include <pybind11/pybind11.h>

#include <limits>
#include <stdexcept>

#include "../pte.hpp"

namespace kvsim::bindings {

inline PteRates pte_rates(const pybind11::handle& weights) {
  PteRates rates;
  rates.reading = weights.attr("reading").cast<i64>();
  rates.gpus = weights.attr("gpus").cast<double>();
  rates.token_gpu_s = weights.attr("token_gpu_s").cast<double>();
  rates.unknown = std::numeric_limits<double>::quiet_NaN();
  for (const pybind11::handle read : weights.attr("reads")) {
    if (rates.reads == PteRates::kMostReads) throw std::invalid_argument("too many groups of layers");
    rates.read[rates.reads++] = {read.attr("gamma").cast<double>(), read.attr("window").cast<double>()};
  }
  return rates;
}

}  // namespace kvsim::bindings
