#include "register_resident.hpp"

#include <limits>

#include "register_arrays.hpp"
#include "resident.hpp"

namespace kvsim::cuda {

namespace {

namespace py = pybind11;
using bindings::IntArray;

ResidentTurns resident_turns(const py::kwargs& given) {
  const auto column = [&](const char* name) { return taken(given[name], Kind::kInt64, name); };
  const auto optional = [&](const char* name) {
    return given[name].is_none() ? std::nullopt : std::optional<Array>(column(name));
  };
  const Array parent = column("parent");
  ResidentColumns columns{parent,
                          optional("after").value_or(parent),
                          column("kept_tokens"),
                          column("prompt_tokens"),
                          column("output_tokens"),
                          column("pause_ns"),
                          column("arrival_ns"),
                          column("trajectory"),
                          optional("waits_offsets"),
                          optional("waits_rows"),
                          optional("cached_tokens")};
  const py::gil_scoped_release release;
  return ResidentTurns(std::move(columns));
}

py::object told_fault(const ResidentTurns& turns) {
  if (!turns.fault()) return py::none();
  return py::make_tuple(turns.fault()->row, turns.fault()->column, turns.fault()->value);
}

py::dict told_facts(const ResidentTurns& turns) {
  const Facts& facts = turns.facts();
  return py::dict(py::arg("most_prompt") = facts.most_prompt, py::arg("most_output") = facts.most_output,
                  py::arg("most_tokens") = facts.most_tokens, py::arg("last_arrival_ns") = facts.last_arrival_ns,
                  py::arg("pauses_ns") = facts.pauses_ns, py::arg("apart") = facts.apart);
}

py::tuple run_estimate(const ResidentTurns& turns, const Rates& rates, const IntArray& step, bool with_columns) {
  const Law law = law_of(rates, step);
  ResidentPrices prices;
  {
    const py::gil_scoped_release release;
    prices = turns.price(law, with_columns);
  }
  py::list totals;
  for (i64 number = 0; number < 8; ++number) totals.append(prices.totals.column(number, 8));
  return py::make_tuple(totals, prices.held_block_ns, prices.columns);
}

py::tuple run_pte(const ResidentTurns& turns, const Rates& rates, const IntArray& step, const py::handle& weights) {
  const Law law = law_of(rates, step);
  const PteRates pte = pte_rates(weights);
  ResidentPte made;
  {
    const py::gil_scoped_release release;
    made = turns.pte(law, pte);
  }
  return py::make_tuple(made.turns, made.trajectories);
}

Array run_scaled(const std::vector<Array>& plus, const std::optional<Array>& minus, const std::optional<Array>& amount,
                 double scale, double factor, double further_factor, const std::optional<Array>& unknown) {
  if (plus.size() > 3 || plus.empty() == !amount.has_value())
    throw std::invalid_argument("one to three arrays, or one");
  const py::gil_scoped_release release;
  return scaled({plus, minus, amount, unknown, scale, {factor, further_factor}});
}

}  // namespace

void register_resident(py::module_& module) {
  py::class_<ResidentTurns>(module, "ResidentTurns", py::module_local(),
                            "Columns of a batch on the device, checked; see kvsim.DeviceBatch.")
      .def(py::init(&resident_turns))
      .def_property_readonly("rows", &ResidentTurns::rows)
      .def_property_readonly("trajectories", &ResidentTurns::trajectories)
      .def_property_readonly("fault", &told_fault, "Row, column and value of what is not valid, or None.")
      .def_property_readonly("facts", &told_facts)
      .def("estimate", &run_estimate, py::arg("rates"), py::arg("step"), py::arg("with_columns"),
           "The eight totals, held block nanoseconds, and the eight columns of turns where asked for.")
      .def("pte", &run_pte, py::arg("rates"), py::arg("step"), py::arg("weights"), "PTE of turns and trajectories.")
      .def("within", &ResidentTurns::within, py::arg("tokens"), "The same with every turn cut to so many tokens.");
  module.def("scaled", &run_scaled, py::arg("plus"), py::arg("minus"), py::arg("amount"), py::arg("scale"),
             py::arg("factor"), py::arg("further_factor"), py::arg("unknown"),
             "(sum of plus - minus) or amount * scale, / 10^9, times both factors; NaN where unknown.");
}

}  // namespace kvsim::cuda
