#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "../workers.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "pricing.hpp"

namespace kvsim::cuda {

namespace {

// Rows of a shipment: enough to fill a card, few enough that copies of one overlap with the kernels of another.
constexpr i64 kRowsAtOnce = i64{1} << 19;

// A pointer such that pointer[first] is at `data`: kernels keep the batch's numbers of rows, whichever part they see.
template <class Value>
Value* from(std::byte* data, i64 first) {
  return reinterpret_cast<Value*>(reinterpret_cast<std::uintptr_t>(data) -
                                  static_cast<std::uintptr_t>(first) * sizeof(Value));
}

// Units that are priced together, and what they own.
struct Shipment {
  i64 first_unit, end_unit;
  i64 first_row, end_row;
  i64 first_trajectory, end_trajectory;
  i64 first_wait, end_wait;

  i64 units() const { return end_unit - first_unit; }
  i64 rows() const { return end_row - first_row; }
  i64 trajectories() const { return end_trajectory - first_trajectory; }
};

Shipment shipment_of(const Units& units, i64 first_unit, i64 end_unit) {
  const Turns& turns = units.turns();
  Shipment shipment{first_unit,
                    end_unit,
                    units.starts()[first_unit],
                    units.starts()[end_unit],
                    units.trajectory_starts()[first_unit],
                    units.trajectory_starts()[end_unit],
                    0,
                    0};
  if (turns.waits_offsets != nullptr) {
    shipment.first_wait = turns.waits_offsets[shipment.first_row];
    shipment.end_wait = turns.waits_offsets[shipment.end_row];
  }
  return shipment;
}

// Which arrays a pricing needs on the device, and how many bytes: said once for sizes, copies and views.
class Needs {
 public:
  Needs(const Law& law, const PteRates& pte, const Units& units, const Prices& prices)
      : law_(law),
        units_(units),
        prices_(prices),
        priced_(prices.totals != nullptr || prices.columns.status != nullptr || pte.reading != kPaperPte),
        with_columns_(prices.columns.status != nullptr || (prices.pte != nullptr && pte.reading != kPaperPte)) {}

  // Whether turns are priced at all: the paper's PTE rests on tokens alone.
  bool priced() const { return priced_; }

  // What is copied to the device: `take(view, first, count)` moves a view to [first, first + count) of its array.
  template <class Take>
  void each_input(const Shipment& shipment, Turns& turns, UnitView& units, const i64*& step, Take&& take) const {
    take(turns.prompt, shipment.first_row, shipment.rows());
    take(turns.output, shipment.first_row, shipment.rows());
    if (!priced_) return;
    const bool follows = turns.after == turns.parent;
    take(turns.parent, shipment.first_row, shipment.rows());
    if (follows) {
      turns.after = turns.parent;
    } else {
      take(turns.after, shipment.first_row, shipment.rows());
    }
    take(turns.kept, shipment.first_row, shipment.rows());
    take(turns.pause_ns, shipment.first_row, shipment.rows());
    take(turns.arrival_ns, shipment.first_row, shipment.rows());
    take(turns.trajectory, shipment.first_row, shipment.rows());
    if (turns.waits_offsets != nullptr) {
      take(turns.waits_offsets, shipment.first_row, shipment.rows() + 1);
      take(turns.waits_rows, shipment.first_wait, shipment.end_wait - shipment.first_wait);
    }
    if (turns.shared != nullptr) take(turns.shared, shipment.first_row, shipment.rows());
    if (law_.rates.survival != kLogged) turns.logged_cached = nullptr;
    if (turns.logged_cached != nullptr) take(turns.logged_cached, shipment.first_row, shipment.rows());
    take(units.starts, shipment.first_unit, shipment.units() + 1);
    take(units.trajectory_starts, shipment.first_unit, shipment.units() + 1);
    take(step, 0, law_.steps);
  }

  // What is copied back: `give(view, to, first, count, numbers)`; `numbers` says where in `to` each value belongs.
  template <class Give>
  void each_output(const Shipment& shipment, PriceView& view, double*& pte, Give&& give) const {
    const i64 first = shipment.first_row, rows = shipment.rows();
    const i64* numbers = units_.rows();
    if (prices_.pte != nullptr) give(pte, prices_.pte, first, rows, numbers);
    if (prices_.columns.status != nullptr) {
      const PriceColumns& to = prices_.columns;
      give(view.columns.release_ns, to.release_ns, first, rows, numbers);
      give(view.columns.fresh_ns, to.fresh_ns, first, rows, numbers);
      give(view.columns.recompute_ns, to.recompute_ns, first, rows, numbers);
      give(view.columns.decode_ns, to.decode_ns, first, rows, numbers);
      give(view.columns.cached_tokens, to.cached_tokens, first, rows, numbers);
      give(view.columns.recomputed_tokens, to.recomputed_tokens, first, rows, numbers);
      give(view.columns.held_block_ns, to.held_block_ns, first, rows, numbers);
      give(view.columns.status, to.status, first, rows, numbers);
    }
    if (prices_.totals != nullptr) {
      give(view.totals, prices_.totals, shipment.first_trajectory, shipment.trajectories(), units_.trajectories());
      give(view.held_block_ns, prices_.held_block_ns, shipment.first_trajectory, shipment.trajectories(),
           units_.trajectories());
    }
  }

  // What only the device sees: `keep(view, first, count)`.
  template <class Keep>
  void each_scratch(const Shipment& shipment, PriceView& view, Keep&& keep) const {
    if (!priced_) return;
    const i64 first = shipment.first_row, rows = shipment.rows();
    keep(view.finish_ns, first, rows);
    if (prices_.totals == nullptr) {
      keep(view.totals, shipment.first_trajectory, shipment.trajectories());
      keep(view.held_block_ns, shipment.first_trajectory, shipment.trajectories());
    }
    if (prices_.columns.status != nullptr || !with_columns_) return;
    keep(view.columns.release_ns, first, rows);
    keep(view.columns.fresh_ns, first, rows);
    keep(view.columns.recompute_ns, first, rows);
    keep(view.columns.decode_ns, first, rows);
    keep(view.columns.cached_tokens, first, rows);
    keep(view.columns.recomputed_tokens, first, rows);
    keep(view.columns.held_block_ns, first, rows);
    keep(view.columns.status, first, rows);
  }

 private:
  const Law& law_;
  const Units& units_;
  const Prices& prices_;
  bool priced_;
  bool with_columns_;
};

// Copies within the host's memory, in pieces that threads take: one core copies several times slower than the link to
// the card.
class HostCopies {
 public:
  void add(void* to, const void* from, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kPiece) {
      pieces_.push_back(
          {static_cast<std::byte*>(to) + at, static_cast<const std::byte*>(from) + at, std::min(kPiece, bytes - at)});
    }
    bytes_ += bytes;
  }
  void make(i64 threads) const {
    const i64 worth_it = 1 + static_cast<i64>(bytes_ / kBytesPerThread);
    run_on_threads(min_of(threads, worth_it), static_cast<i64>(pieces_.size()),
                   [&](i64 i) { std::memcpy(pieces_[i].to, pieces_[i].from, pieces_[i].bytes); });
  }

 private:
  static constexpr std::size_t kPiece = std::size_t{1} << 18;
  static constexpr std::size_t kBytesPerThread = std::size_t{1} << 20;  // starting one takes as long as copying these
  struct Piece {
    std::byte* to;
    const std::byte* from;
    std::size_t bytes;
  };
  std::vector<Piece> pieces_;
  std::size_t bytes_ = 0;
};

// Of a shipment, in this order on the device.
struct Bytes {
  std::size_t input = 0, output = 0, scratch = 0;
  std::size_t all() const { return input + output + scratch; }
};

// One stream with its rooms: a shipment is copied, computed and copied back here while another one is elsewhere.
class Lane {
 public:
  // Room for every one of the shipments.
  void reserve(const std::vector<Bytes>& shipments) {
    Bytes most;
    std::size_t all = 0;
    for (const Bytes& bytes : shipments) {
      most.input = std::max(most.input, bytes.input);
      most.output = std::max(most.output, bytes.output);
      all = std::max(all, bytes.all());
    }
    host_input_.room_for(most.input);
    host_output_.room_for(most.output);
    device_.room_for(all);
  }
  std::size_t device_bytes() const { return device_.bytes(); }

  // Queues all that a shipment needs; its results are there after deliver().
  void start(const Law& law, const PteRates& weights, const Units& units, const Needs& needs, const Shipment& shipment,
             const Bytes& bytes, i64 threads) {
    std::byte* const input_room = device_.room_for(bytes.all());
    std::byte* const output_room = input_room + bytes.input;
    std::byte* const scratch_room = output_room + bytes.output;
    Turns turns = units.turns();
    UnitView view{shipment.first_unit, shipment.end_unit, units.starts(), units.trajectory_starts()};
    const i64* step = law.step;
    Layout input;
    HostCopies copies;
    needs.each_input(shipment, turns, view, step, [&](const i64*& column, i64 first, i64 count) {
      const std::size_t at = input.add<i64>(count);
      copies.add(host_input_.data() + at, column + first, static_cast<std::size_t>(count) * sizeof(i64));
      column = from<const i64>(input_room + at, first);
    });
    copies.make(threads);
    check(cudaMemcpyAsync(input_room, host_input_.data(), bytes.input, cudaMemcpyHostToDevice, stream_),
          "a batch cannot be copied to the device");

    PriceView prices;
    double* pte = nullptr;
    Layout output, scratch;
    needs.each_output(shipment, prices, pte, [&](auto*& column, auto*, i64 first, i64 count, const i64*) {
      using Value = std::remove_reference_t<decltype(*column)>;
      column = from<Value>(output_room + output.add<Value>(count), first);
    });
    needs.each_scratch(shipment, prices, [&](auto*& column, i64 first, i64 count) {
      using Value = std::remove_reference_t<decltype(*column)>;
      column = from<Value>(scratch_room + scratch.add<Value>(count), first);
    });
    if (needs.priced()) launch_pricing(law.rates, step, turns, view, prices, stream_);
    if (pte != nullptr) launch_pte(weights, turns, shipment.first_row, shipment.end_row, prices.columns, pte, stream_);
    check(cudaMemcpyAsync(host_output_.data(), output_room, bytes.output, cudaMemcpyDeviceToHost, stream_),
          "prices cannot be copied from the device");
    shipment_ = shipment;
    busy_ = true;
  }

  // Waits for the shipment under way, if there is one, and puts its results where the host wants them.
  void deliver(const Needs& needs, i64 threads) {
    if (!busy_) return;
    busy_ = false;
    stream_.wait();
    PriceView prices;
    double* pte = nullptr;
    Layout output;
    HostCopies copies;
    needs.each_output(shipment_, prices, pte, [&](auto*& column, auto* to, i64 first, i64 count, const i64* numbers) {
      using Value = std::remove_reference_t<decltype(*column)>;
      const auto* made = reinterpret_cast<const Value*>(host_output_.data() + output.add<Value>(count));
      if (numbers == nullptr) {
        copies.add(to + first, made, static_cast<std::size_t>(count) * sizeof(Value));
      } else {
        for (i64 place = 0; place < count; ++place) to[numbers[first + place]] = made[place];
      }
    });
    copies.make(threads);
  }

  // After a failure: nothing may be under way where rooms are used again.
  void abandon() {
    busy_ = false;
    cudaStreamSynchronize(stream_);
  }

 private:
  Stream stream_;
  PinnedRoom host_input_, host_output_;
  DeviceRoom device_;
  Shipment shipment_{};
  bool busy_ = false;
};

struct Workspace {
  Lane lanes[2];
};

// Kept between calls: page-locking memory takes longer than pricing a small batch.
Shelf<Workspace>& shelf() {
  static auto* const shelf = new Shelf<Workspace>;
  return *shelf;
}

// Units in shipments that fit into a lane; a unit is not divided, whether it fits or not.
class Division {
 public:
  Division(const Units& units, const Needs& needs, std::size_t room) : units_(units), needs_(needs) {
    for (i64 first = 0; first < units.count();) {
      // The most units that fit: sizes grow with their number.
      i64 fits = first, beyond = units.count() + 1;
      while (beyond - fits > 1) {
        const i64 middle = fits + (beyond - fits) / 2;
        const Shipment shipment = shipment_of(units, first, middle);
        ((shipment.units() == 1 || shipment.rows() <= kRowsAtOnce) && bytes_of(shipment).all() <= room ? fits
                                                                                                       : beyond) =
            middle;
      }
      const Shipment shipment = shipment_of(units, first, max_of(fits, first + 1));
      shipments_.push_back(shipment);
      bytes_.push_back(bytes_of(shipment));
      most_ = std::max(most_, bytes_.back().all());
      first = shipment.end_unit;
    }
  }

  const std::vector<Shipment>& shipments() const { return shipments_; }
  const std::vector<Bytes>& bytes() const { return bytes_; }
  std::size_t most() const { return most_; }

 private:
  Bytes bytes_of(const Shipment& shipment) const {
    Turns turns = units_.turns();
    UnitView view;
    PriceView prices;
    const i64* step = nullptr;
    double* pte = nullptr;
    Layout input, output, scratch;
    needs_.each_input(shipment, turns, view, step, [&](const i64*&, i64, i64 count) { input.add<i64>(count); });
    needs_.each_output(shipment, prices, pte, [&](auto*& column, auto*, i64, i64 count, const i64*) {
      output.add<std::remove_reference_t<decltype(*column)>>(count);
    });
    needs_.each_scratch(shipment, prices, [&](auto*& column, i64, i64 count) {
      scratch.add<std::remove_reference_t<decltype(*column)>>(count);
    });
    return {input.bytes(), output.bytes(), scratch.bytes()};
  }

  const Units& units_;
  const Needs& needs_;
  std::vector<Shipment> shipments_;
  std::vector<Bytes> bytes_;
  std::size_t most_ = 0;
};

// Room on the card for one lane, of what is free and of what the workspace has already; some is left to others.
std::size_t room_for_lane(const Workspace& workspace) {
  std::size_t free_bytes = 0, all = 0;
  check(cudaMemGetInfo(&free_bytes, &all), "the device's memory cannot be asked for");
  const std::size_t own = workspace.lanes[0].device_bytes() + workspace.lanes[1].device_bytes();
  return (free_bytes / 10 * 9 + own) / 2;
}

}  // namespace

void price(const Law& law, const PteRates& pte, const Units& units, const Prices& prices, i64 threads) {
  if (units.count() == 0) return;
  const Needs needs(law, pte, units, prices);
  std::unique_ptr<Workspace> workspace = shelf().take();
  const std::size_t room = room_for_lane(*workspace);
  const Division division(units, needs, room);
  if (division.most() > room) {
    throw DeviceError("trajectories that depend on each other need " + std::to_string(division.most() >> 20) +
                      " MiB of device memory together, of which " + std::to_string(room >> 20) + " MiB can be had");
  }
  const std::size_t shipments = division.shipments().size();
  try {
    for (std::size_t lane = 0; lane < std::min<std::size_t>(shipments, 2); ++lane) {
      workspace->lanes[lane].reserve(division.bytes());
    }
    for (std::size_t number = 0; number < shipments; ++number) {
      Lane& lane = workspace->lanes[number % 2];
      lane.deliver(needs, threads);
      lane.start(law, pte, units, needs, division.shipments()[number], division.bytes()[number], threads);
    }
    workspace->lanes[shipments % 2].deliver(needs, threads);
    workspace->lanes[(shipments + 1) % 2].deliver(needs, threads);
  } catch (...) {
    for (Lane& lane : workspace->lanes) lane.abandon();
    throw;
  }
  shelf().put_back(std::move(workspace));
}

void release_memory() { shelf().clear(); }

}  // namespace kvsim::cuda
