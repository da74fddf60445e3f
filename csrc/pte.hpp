// PTE of a turn: what it costs in prefilled tokens. kvsim/metrics/pte.py says what the readings mean, and is the
// readable text.
#pragma once

#include "estimate.hpp"

namespace kvsim {

enum PteReading : i64 { kPaperPte = 0, kExactPte = 1, kCalibratedPte = 2 };

// What decoding reads of one context token in some of the layers.
struct PteRead {
  double gamma = 0.0;
  double window = 0.0;  // most tokens that a step reads, 0: all of them
};

// kvsim.metrics.pte.Weights says the same, field by field.
struct PteRates {
  static constexpr i64 kMostReads = 8;
  i64 reading = kPaperPte;
  i64 reads = 0;
  PteRead read[kMostReads];
  double gpus = 1.0;         // that a second in the model occupies
  double token_gpu_s = 1.0;  // what one prefilled token takes
  double unknown = 0.0;      // of turns that could not be priced: NaN
};

// The sum over k < decoded of prompt + k, or of the window if less.
KVSIM_HD double context_read(double prompt, double decoded, double window) {
  double growing = decoded;
  if (window != 0.0) {
    growing = window - prompt;
    if (growing < 0.0) growing = 0.0;
    if (growing > decoded) growing = decoded;
  }
  return growing * prompt + growing * (growing - 1.0) / 2.0 + (decoded - growing) * window;
}

// The paper's reading needs no price.
KVSIM_HD double pte_of(const PteRates& rates, i64 prompt_tokens, i64 output_tokens, const Price& price) {
  const double prompt = static_cast<double>(prompt_tokens);
  const double decoded = static_cast<double>(max_of(output_tokens, 1));
  if (rates.reading == kPaperPte) return prompt * (1.0 + rates.read[0].gamma * decoded);
  if (price.status != kOk) return rates.unknown;
  if (rates.reading == kCalibratedPte) {
    const i64 model_ns = price.fresh_ns + price.recompute_ns + price.decode_ns;
    return static_cast<double>(model_ns) / 1e9 * rates.gpus / rates.token_gpu_s;
  }
  double cost = prompt - static_cast<double>(price.cached_tokens);
  for (i64 n = 0; n < rates.reads; ++n) {
    cost = cost + rates.read[n].gamma * context_read(prompt, decoded, rates.read[n].window);
  }
  return cost;
}

// Of a turn whose price stands in `columns`.
KVSIM_HD double pte_of(const PteRates& rates, i64 prompt_tokens, i64 output_tokens, const PriceColumns& columns,
                       i64 row) {
  Price price;
  if (rates.reading != kPaperPte) {
    price.fresh_ns = columns.fresh_ns[row];
    price.recompute_ns = columns.recompute_ns[row];
    price.decode_ns = columns.decode_ns[row];
    price.cached_tokens = columns.cached_tokens[row];
    price.status = columns.status[row];
  }
  return pte_of(rates, prompt_tokens, output_tokens, price);
}

// One value a turn.
struct PteColumn {
  PteRates rates;
  const i64* prompt = nullptr;
  const i64* output = nullptr;
  double* pte = nullptr;

  KVSIM_HD void tell(i64 row, i64, const Price& price) const {
    pte[row] = pte_of(rates, prompt[row], output[row], price);
  }
};

// PTE of all rows, without their prices ever standing in memory. `finish_ns` [rows] is scratch.
template <i64 kSurvival, bool kPlain>
void weigh(const Rates& given, const i64* step, const Turns& columns, i64* finish_ns, const PteColumn& to) {
  const Rates rates = given;  // as in estimate()
  const Turns turns = columns;
  const PteColumn out = to;
  NoTotals none;
  price_rows<kSurvival, true, kPlain>(rates, step, turns, 0, turns.rows, finish_ns, none, out);
}

}  // namespace kvsim
