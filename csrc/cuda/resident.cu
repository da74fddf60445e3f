#include <limits>
#include <numeric>
#include <stdexcept>

#include "../order.hpp"
#include "inspection.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "resident.hpp"

namespace kvsim::cuda {

namespace {

constexpr const char* kColumnOf[kChecks] = {"trajectory",  "parent",       "prompt_tokens", "output_tokens",
                                            "kept_tokens", "pause_ns",     "arrival_ns",    "after",
                                            "waits_for",   "cached_tokens"};

// What a call needs besides its results: kept between calls.
struct Bench {
  Stream stream;
  DeviceRoom room;
};

Shelf<Bench>& shelf() {
  static auto* const shelf = new Shelf<Bench>;
  return *shelf;
}

// A bench for the length of a call; after a failure it is not used again.
class Borrowed {
 public:
  Borrowed() : bench_(shelf().take()) {}
  Bench* operator->() { return bench_.get(); }
  void finish() {
    bench_->stream.wait();
    shelf().put_back(std::move(bench_));
  }
  ~Borrowed() {
    if (bench_ != nullptr) cudaStreamSynchronize(bench_->stream);
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;

 private:
  std::unique_ptr<Bench> bench_;
};

// In the order of the stream; what is copied may change when it returns. A plain cudaMemcpy may return before the
// device has it all, and streams of our own would not wait for that.
void copy_to_device(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "the device cannot be written to");
}

Array on_device(const i64* values, i64 count, cudaStream_t stream) {
  Array made = new_array<i64>(count);
  copy_to_device(made.data, values, made.bytes(), stream);
  return made;
}

std::vector<i64> on_host(const Array& array) {
  std::vector<i64> made(array.length);
  copy_to_host(made.data(), array.data, array.bytes());
  return made;
}

PriceColumns columns_of(const std::vector<Array>& arrays) {
  if (arrays.empty()) return {};
  return {arrays[0].as<i64>(), arrays[1].as<i64>(), arrays[2].as<i64>(),    arrays[3].as<i64>(),
          arrays[4].as<i64>(), arrays[5].as<i64>(), arrays[6].as<double>(), arrays[7].as<std::int8_t>()};
}

std::vector<Array> new_columns(i64 rows) {
  std::vector<Array> made;
  for (int number = 0; number < 6; ++number) made.push_back(new_array<i64>(rows));
  made.push_back(new_array<double>(rows));
  made.push_back(new_array<std::int8_t>(rows));
  return made;
}

void require_lengths(const ResidentColumns& columns) {
  const i64 rows = columns.parent.length;
  const auto require = [&](const Array& array, i64 length, const char* name) {
    if (array.length != length) {
      throw std::invalid_argument(std::string(name) + ": has " + std::to_string(array.length) + " values in place of " +
                                  std::to_string(length));
    }
    if (array.length > 0 && array.device != columns.parent.device) {
      throw std::invalid_argument(std::string(name) + ": is on another device than parent");
    }
  };
  require(columns.after, rows, "after");
  require(columns.kept, rows, "kept_tokens");
  require(columns.prompt, rows, "prompt_tokens");
  require(columns.output, rows, "output_tokens");
  require(columns.pause_ns, rows, "pause_ns");
  require(columns.arrival_ns, rows, "arrival_ns");
  require(columns.trajectory, rows, "trajectory");
  if (columns.waits_offsets) require(*columns.waits_offsets, rows + 1, "waits_for offsets");
  if (columns.waits_rows) require(*columns.waits_rows, columns.waits_rows->length, "waits_for rows");
  if (columns.logged_cached) require(*columns.logged_cached, rows, "cached_tokens");
}

}  // namespace

ResidentTurns::ResidentTurns(ResidentColumns columns) : columns_(std::move(columns)) {
  require_lengths(columns_);
  const OnDevice on(columns_.parent.device);
  if (columns_.waits_rows && columns_.waits_rows->length == 0) columns_.waits_offsets = columns_.waits_rows = {};
  if (rows() > 0) inspect();
}

Turns ResidentTurns::view() const {
  Turns turns;
  turns.rows = rows();
  turns.trajectories = trajectories_;
  turns.parent = columns_.parent.as<i64>();
  turns.after = columns_.after.as<i64>();
  turns.kept = columns_.kept.as<i64>();
  turns.prompt = columns_.prompt.as<i64>();
  turns.output = columns_.output.as<i64>();
  turns.pause_ns = columns_.pause_ns.as<i64>();
  turns.arrival_ns = columns_.arrival_ns.as<i64>();
  turns.trajectory = columns_.trajectory.as<i64>();
  if (columns_.waits_offsets) {
    turns.waits_offsets = columns_.waits_offsets->as<i64>();
    turns.waits_rows = columns_.waits_rows->as<i64>();
  }
  if (columns_.logged_cached) turns.logged_cached = columns_.logged_cached->as<i64>();
  if (order_) turns.order = order_->as<i64>();
  return turns;
}

void ResidentTurns::inspect() {
  Findings found{~0ULL, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  Borrowed bench;
  auto* const findings = reinterpret_cast<Findings*>(bench->room.room_for(sizeof found));
  copy_to_device(findings, &found, sizeof found, bench->stream);
  launch_inspection(view(), columns_.waits_rows ? columns_.waits_rows->length : 0, findings, bench->stream);
  bench->stream.wait();
  copy_to_host(&found, findings, sizeof found);
  if (found.fault != ~0ULL) {
    const auto row = static_cast<i64>(found.fault / kChecks);
    const i64 check = static_cast<i64>(found.fault % kChecks);
    const Array* const checked[kChecks] = {&columns_.trajectory,
                                           &columns_.parent,
                                           &columns_.prompt,
                                           &columns_.output,
                                           &columns_.kept,
                                           &columns_.pause_ns,
                                           &columns_.arrival_ns,
                                           &columns_.after,
                                           nullptr,
                                           columns_.logged_cached ? &*columns_.logged_cached : nullptr};
    i64 value = 0;
    if (checked[check] != nullptr) copy_to_host(&value, checked[check]->as<i64>() + row, sizeof value);
    fault_ = {row, kColumnOf[check], value};
    return;
  }
  facts_ = {static_cast<i64>(found.most_prompt),
            static_cast<i64>(found.most_output),
            static_cast<i64>(found.most_tokens),
            static_cast<i64>(found.last_arrival_ns),
            static_cast<double>(found.pauses) * static_cast<double>(1 << 20),
            found.across == 0};
  trajectories_ = static_cast<i64>(found.last_trajectory) + 1;
  if (found.across == 0 && found.backward == 0 && found.unsorted == 0) {
    units_ = trajectories_;
    starts_ = new_array<i64>(units_ + 1);
    trajectory_starts_ = new_array<i64>(units_ + 1);
    launch_marking(view(), starts_.as<i64>(), trajectory_starts_->as<i64>(), bench->stream);
  }
  bench.finish();
  if (!trajectory_starts_) find_units(found.backward == 0);
}

// What depends on what is read back; the host finds the order, and the rows of each trajectory.
void ResidentTurns::find_units(bool in_order) {
  const std::vector<i64> parent = on_host(columns_.parent), after = on_host(columns_.after);
  const std::vector<i64> trajectory = on_host(columns_.trajectory);
  std::vector<i64> waits_offsets, waits_rows;
  Turns turns;
  turns.rows = rows();
  turns.trajectories = trajectories_;
  turns.parent = parent.data();
  turns.after = after.data();
  turns.trajectory = trajectory.data();
  if (columns_.waits_offsets) {
    waits_offsets = on_host(*columns_.waits_offsets);
    waits_rows = on_host(*columns_.waits_rows);
    turns.waits_offsets = waits_offsets.data();
    turns.waits_rows = waits_rows.data();
  }
  std::vector<i64> starts(trajectories_ + 1, 0), by_trajectory(rows());
  for (const i64 t : trajectory) ++starts[t + 1];
  for (i64 t = 0; t < trajectories_; ++t) {
    if (starts[t + 1] == 0) {
      fault_ = {0, "trajectory", t};
      return;
    }
  }
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  std::vector<i64> next = starts;
  for (i64 row = 0; row < rows(); ++row) by_trajectory[next[trajectory[row]]++] = row;

  std::vector<i64> order;
  if (!in_order) {
    order = topological_order(turns);
    if (static_cast<i64>(order.size()) < rows()) {
      fault_ = {0, "cycle", 0};
      return;
    }
    turns.order = order.data();
  }
  const Units units(turns);
  units_ = units.count();
  Borrowed bench;
  starts_ = on_device(units.starts(), units_ + 1, bench->stream);
  order_ = on_device(units.rows(), rows(), bench->stream);
  sum_starts_ = on_device(starts.data(), trajectories_ + 1, bench->stream);
  sum_rows_ = on_device(by_trajectory.data(), rows(), bench->stream);
  bench.finish();
}

ResidentPrices ResidentTurns::price(const Law& law, bool with_columns) const {
  const OnDevice on(columns_.parent.device);
  ResidentPrices made{new_array<i64>(8 * trajectories_), new_array<double>(trajectories_), {}};
  if (with_columns) made.columns = new_columns(rows());
  if (rows() == 0) return made;
  Borrowed bench;
  Layout layout;
  const std::size_t step_at = layout.add<i64>(law.steps), finish_at = layout.add<i64>(rows());
  std::byte* const room = bench->room.room_for(layout.bytes());
  auto* const step = reinterpret_cast<i64*>(room + step_at);
  copy_to_device(step, law.step, static_cast<std::size_t>(law.steps) * sizeof(i64), bench->stream);
  const PriceView prices{reinterpret_cast<i64*>(room + finish_at), made.totals.as<Totals>(),
                         made.held_block_ns.as<double>(), columns_of(made.columns)};
  const UnitView units{0, units_, starts_.as<i64>(), trajectory_starts_ ? trajectory_starts_->as<i64>() : nullptr};
  if (!trajectory_starts_) launch_clearing(trajectories_, prices, bench->stream);
  launch_pricing(law.rates, step, view(), units, prices, bench->stream);
  bench.finish();
  return made;
}

ResidentPte ResidentTurns::pte(const Law& law, const PteRates& rates) const {
  const OnDevice on(columns_.parent.device);
  ResidentPte made{new_array<double>(rows()), new_array<double>(trajectories_)};
  if (rows() == 0) return made;
  ResidentPrices prices;
  if (rates.reading != kPaperPte) prices = price(law, true);
  Borrowed bench;
  launch_pte(rates, view(), 0, rows(), columns_of(prices.columns), made.turns.as<double>(), bench->stream);
  launch_sums(trajectories_, (sum_starts_ ? *sum_starts_ : starts_).as<i64>(),
              sum_rows_ ? sum_rows_->as<i64>() : nullptr, made.turns.as<double>(), made.trajectories.as<double>(),
              bench->stream);
  bench.finish();
  return made;
}

ResidentTurns ResidentTurns::within(i64 tokens) const {
  const OnDevice on(columns_.parent.device);
  ResidentTurns made(*this);
  made.columns_.kept = new_array<i64>(rows());
  made.columns_.prompt = new_array<i64>(rows());
  made.columns_.output = new_array<i64>(rows());
  Borrowed bench;
  launch_cutting(view(), tokens, made.columns_.kept.as<i64>(), made.columns_.prompt.as<i64>(),
                 made.columns_.output.as<i64>(), bench->stream);
  bench.finish();
  made.facts_.most_tokens = min_of(facts_.most_tokens, tokens);
  made.facts_.most_prompt = min_of(facts_.most_prompt, tokens);
  made.facts_.most_output = min_of(facts_.most_output, tokens);
  return made;
}

Array scaled(const ScaledArrays& given) {
  const Array& first = given.amount ? *given.amount : given.plus.at(0);
  const OnDevice on(first.device);
  Scaling scaling;
  for (std::size_t number = 0; number < given.plus.size(); ++number) {
    scaling.plus[number] = given.plus[number].as<i64>();
    scaling.stride = given.plus[number].stride;
  }
  if (given.minus) scaling.minus = given.minus->as<i64>();
  if (given.amount) scaling.amount = given.amount->as<double>();
  if (given.unknown && given.unknown->kind == Kind::kInt8) scaling.unknown_status = given.unknown->as<std::int8_t>();
  if (given.unknown && given.unknown->kind == Kind::kInt64) {
    scaling.unknown_counts = given.unknown->as<i64>();
    scaling.stride = given.unknown->stride;
  }
  scaling.scale = given.scale;
  scaling.factors[0] = given.factors[0];
  scaling.factors[1] = given.factors[1];
  scaling.nowhere = std::numeric_limits<double>::quiet_NaN();
  Array made = new_array<double>(first.length);
  Borrowed bench;
  launch_scaling(scaling, first.length, made.as<double>(), bench->stream);
  bench.finish();
  return made;
}

void release_resident_memory() { shelf().clear(); }

}  // namespace kvsim::cuda
