#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "prices.hpp"
#include "pte_rates.hpp"

namespace kvsim::bindings {

namespace {

// Finish times of all rows: reused between calls, and in huge pages where the system has them, since touching fresh
// pages costs more than the pricing.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  i64* room_for(i64 rows) {
    if (rows <= capacity_) return data_;
    std::free(data_);
    capacity_ = 0;
    const std::size_t bytes = (static_cast<std::size_t>(rows) * sizeof(i64) + kHugePage - 1) / kHugePage * kHugePage;
    data_ = static_cast<i64*>(std::aligned_alloc(kHugePage, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    capacity_ = rows;
    return data_;
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t{1} << 21;
  i64* data_ = nullptr;
  i64 capacity_ = 0;
};

// The calling thread's, kept for its next call.
i64* finish_ns_for(const Turns& turns) {
  thread_local Scratch scratch;
  return scratch.room_for(turns.rows);
}

using Kernel = void (*)(const Rates&, const i64*, const Turns&, const Piece&, i64*, Totals*, double*,
                        const PriceColumns&);
using Weigh = void (*)(const Rates&, const i64*, const Turns&, i64*, const PteColumn&);

// `choose` is asked with the survival as a type: std::integral_constant.
template <class Choose>
auto for_survival(i64 survival, Choose&& choose) {
  switch (survival) {
    case kNever:
      return choose(std::integral_constant<i64, kNever>{});
    case kAlways:
      return choose(std::integral_constant<i64, kAlways>{});
    case kTtl:
      return choose(std::integral_constant<i64, kTtl>{});
    case kLru:
      return choose(std::integral_constant<i64, kLru>{});
    case kLogged:
      return choose(std::integral_constant<i64, kLogged>{});
    case kNoCache:
      return choose(std::integral_constant<i64, kNoCache>{});
  }
  throw std::invalid_argument("unknown survival " + std::to_string(survival));
}

Kernel kernel_for(i64 survival, bool with_turns, bool plain) {
  return for_survival(survival, [&](auto known) -> Kernel {
    constexpr i64 kSurvival = decltype(known)::value;
    if (with_turns) return plain ? &estimate<kSurvival, true, true> : &estimate<kSurvival, true, false>;
    return plain ? &estimate<kSurvival, false, true> : &estimate<kSurvival, false, false>;
  });
}

Weigh weigh_for(i64 survival, bool plain) {
  return for_survival(survival, [&](auto known) -> Weigh {
    constexpr i64 kSurvival = decltype(known)::value;
    return plain ? &weigh<kSurvival, true> : &weigh<kSurvival, false>;
  });
}

// The pieces that a batch is cut into, so that threads end at about the same time.
constexpr i64 kPieces = 256;

const Pieces& pieces_of(const HeldTurns& held, i64 threads) {
  std::call_once(held.cut->once, [&] { held.cut->pieces = cut(held.turns, kPieces, threads); });
  return held.cut->pieces;
}

py::tuple run_estimate(const Rates& rates, const IntArray& step, const HeldTurns& held,
                       const std::optional<py::tuple>& columns, i64 threads, i64 rows_per_thread) {
  require_length(step, rates.chunk + 1, "step");
  const Turns& turns = held.turns;
  py::array_t<i64> totals({static_cast<py::ssize_t>(turns.trajectories), py::ssize_t{8}});
  py::array_t<double> held_block_ns(turns.trajectories);
  const PriceColumns out = columns ? price_columns(*columns, turns.rows) : PriceColumns{};
  auto* total_rows = reinterpret_cast<Totals*>(totals.mutable_data());
  double* held_data = held_block_ns.mutable_data();
  const i64* steps = step.data();
  {
    py::gil_scoped_release release;
    i64* finish_ns = finish_ns_for(turns);
    const i64 useful = min_of(threads, turns.rows / rows_per_thread);
    const Pieces& pieces = useful > 1 ? pieces_of(held, useful) : held.cut->whole;
    const Turns ordered = pieces.ordered(turns);
    const Kernel kernel = kernel_for(rates.survival, columns.has_value(), is_plain(rates, ordered));
    if (pieces.mixed) {
      std::fill_n(total_rows, turns.trajectories, Totals{});
      std::fill_n(held_data, turns.trajectories, 0.0);
    }
    run_on_threads(useful, static_cast<i64>(pieces.pieces.size()), [&](i64 i) {
      kernel(rates, steps, ordered, pieces.pieces[i], finish_ns, total_rows, held_data, out);
    });
  }
  return py::make_tuple(totals, held_block_ns);
}

py::array_t<double> run_pte(const std::optional<Rates>& rates, const std::optional<IntArray>& step,
                            const HeldTurns& held, const py::handle& weights) {
  const Turns& turns = held.turns;
  py::array_t<double> pte(turns.rows);
  const PteColumn out{pte_rates(weights), turns.prompt, turns.output, pte.mutable_data()};
  if (!rates || !step) {
    if (out.rates.reading != kPaperPte) throw std::invalid_argument("only the paper's reading needs no rates");
    const py::gil_scoped_release release;
    for (i64 row = 0; row < turns.rows; ++row) out.tell(row, 0, Price{});
    return pte;
  }
  require_length(*step, rates->chunk + 1, "step");
  const i64* steps = step->data();
  const py::gil_scoped_release release;
  weigh_for(rates->survival, is_plain(*rates, turns))(*rates, steps, turns, finish_ns_for(turns), out);
  return pte;
}

}  // namespace

void register_estimate(py::module_& module) {
  module.def("estimate", &run_estimate, py::arg("rates"), py::arg("step"), py::arg("turns"), py::arg("columns"),
             py::arg("threads"), py::arg("rows_per_thread"),
             "Totals (trajectories, 8) and held block nanoseconds (trajectories,); prices of turns into `columns`. At "
             "most `threads` threads work, and so many that each has `rows_per_thread` rows.");
  module.def("pte", &run_pte, py::arg("rates"), py::arg("step"), py::arg("turns"), py::arg("weights"),
             "PTE of every turn, float64 (rows,); weights as kvsim.metrics.pte.Weights. The paper's reading needs "
             "neither rates nor step.");
}

}  // namespace kvsim::bindings
