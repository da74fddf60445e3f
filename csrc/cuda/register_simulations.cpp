#include "register_simulations.hpp"

#include <deque>

#include "../bindings/engine_inputs.hpp"
#include "simulations.hpp"

namespace kvsim::cuda {

namespace {

namespace py = pybind11;

// A simulation, with the arrays that it reads and writes.
struct Held {
  explicit Held(const py::tuple& given)
      : settings(bindings::settings_from(given[0])),
        law(given[1], settings),
        contexts(given[2]),
        workload(given[3], contexts.columns.rows),
        plan(given[4], contexts.columns.rows),
        fleet(bindings::fleet_from(given[5])),
        timeline(given[6], fleet.replicas),
        made(contexts.columns.rows, fleet.replicas) {}

  Simulated simulated() {
    return {settings, law.law,           contexts.columns, workload.columns,  plan.plan,
            fleet,    timeline.timeline, made.served,      made.totals.data()};
  }

  Settings settings;
  bindings::HeldLaw law;
  bindings::HeldContexts contexts;
  bindings::HeldWorkload workload;
  bindings::HeldPlan plan;
  Fleet fleet;
  bindings::HeldTimeline timeline;
  bindings::HeldServed made;
};

constexpr std::size_t kInputs = 7;

py::list run_simulations(const py::iterable& given, i64 arena_bytes) {
  std::deque<Held> held;
  std::vector<Simulated> simulations;
  for (const py::handle& one : given) {
    const auto inputs = py::cast<py::tuple>(one);
    if (inputs.size() != kInputs) throw std::invalid_argument("a simulation has seven inputs");
    simulations.push_back(held.emplace_back(inputs).simulated());
  }
  {
    const py::gil_scoped_release release;
    for (Held& one : held) one.made.clear();
    simulate(simulations, arena_bytes);
  }
  py::list told;
  for (const Held& one : held) told.append(py::make_tuple(one.made.told_columns(), one.made.told_totals()));
  return told;
}

}  // namespace

void register_simulations(py::module_& module) {
  module.def("simulate", &run_simulations, py::arg("simulations"), py::arg("arena_bytes") = 0,
             "For each (settings, law, contexts, workload, plan, fleet, timeline) columns and totals as "
             "kvsim._core.simulate has them. Each has so many bytes to work in at first, 0: by its size; one that "
             "needs more is run again.");
  module.def("simulations_run_again", &simulations_run_again, "How many, since the module was loaded.");
}

}  // namespace kvsim::cuda
