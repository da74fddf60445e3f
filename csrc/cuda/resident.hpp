// Batches that are on the device already: checked and priced there, without a copy.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../pte.hpp"
#include "array.hpp"
#include "pricing.hpp"

namespace kvsim::cuda {

// The columns of kvsim::Turns as arrays; `after` may be `parent` itself.
struct ResidentColumns {
  Array parent, after, kept, prompt, output, pause_ns, arrival_ns, trajectory;
  std::optional<Array> waits_offsets, waits_rows, logged_cached;
};

// The first row that is not valid, and the column that says so.
struct Fault {
  i64 row = 0;
  std::string column;
  i64 value = 0;
};

// What is known of a valid batch.
struct Facts {
  i64 most_prompt = 0;
  i64 most_output = 0;
  i64 most_tokens = 0;      // of prompt and output (at least 1) of one turn
  i64 last_arrival_ns = 0;  //
  double pauses_ns = 0.0;   // all of them, to 2^20 ns
  bool apart = true;        // no trajectory depends on another
};

struct ResidentPrices {
  Array totals;  // a row of eight for each trajectory
  Array held_block_ns;
  std::vector<Array> columns;  // as in PriceColumns; none where they were not asked for
};

struct ResidentPte {
  Array turns, trajectories;
};

class ResidentTurns {
 public:
  // Throws DeviceError, and std::invalid_argument for arrays of unequal lengths. Where fault() is something, nothing
  // else is to be asked.
  explicit ResidentTurns(ResidentColumns columns);

  const std::optional<Fault>& fault() const { return fault_; }
  const Facts& facts() const { return facts_; }
  i64 rows() const { return columns_.parent.length; }
  i64 trajectories() const { return trajectories_; }

  ResidentPrices price(const Law& law, bool with_columns) const;
  // The paper's reading needs no law.
  ResidentPte pte(const Law& law, const PteRates& rates) const;
  // The same with every turn cut to so many tokens, the prompt first; as kvsim.reward.limits.within.
  ResidentTurns within(i64 tokens) const;

 private:
  Turns view() const;
  void inspect();
  void find_units(bool in_order);

  ResidentColumns columns_;
  std::optional<Fault> fault_;
  Facts facts_;
  i64 trajectories_ = 0;
  i64 units_ = 0;
  Array starts_;
  // Where units are trajectories side by side: a trajectory each. Otherwise the order of pricing, and the rows of each
  // trajectory.
  std::optional<Array> trajectory_starts_;
  std::optional<Array> order_, sum_starts_, sum_rows_;
};

// Results in their units; see Scaling in kernels.hpp. `unknown`: counts, or statuses.
struct ScaledArrays {
  std::vector<Array> plus;
  std::optional<Array> minus, amount, unknown;
  double scale = 1.0;
  double factors[2] = {1.0, 1.0};
};
Array scaled(const ScaledArrays& given);

// Gives back what is kept between calls, results apart.
void release_resident_memory();

}  // namespace kvsim::cuda
