#include <memory>

#include "../simulate.hpp"
#include "arrays.hpp"
#include "engine_inputs.hpp"

namespace kvsim::bindings {

namespace {

py::tuple run_simulation(const py::handle& given_settings, const py::handle& given_law,
                         const py::handle& given_contexts, const py::handle& given_workload) {
  const Settings settings = settings_from(given_settings);
  const HeldLaw law(given_law, settings);
  const HeldContexts contexts(given_contexts);
  const i64 rows = contexts.columns.rows;
  const HeldWorkload workload(given_workload, rows);

  const auto column = [&](i64 value) {
    py::array_t<i64> array(rows);
    std::fill_n(array.mutable_data(), rows, value);
    return array;
  };
  py::array_t<i64> release = column(-1), scheduled = column(-1), first_token = column(-1), finish = column(-1),
                   recompute = column(-1), gpu = column(0), cached = column(-1), hittable = column(-1),
                   preemptions = column(-1);
  const Served served{release.mutable_data(), scheduled.mutable_data(), first_token.mutable_data(),
                      finish.mutable_data(),  recompute.mutable_data(), gpu.mutable_data(),
                      cached.mutable_data(),  hittable.mutable_data(),  preemptions.mutable_data()};
  EngineTotals totals;
  {
    py::gil_scoped_release unlocked;
    if (settings.one_full_group()) {
      totals = Simulation(settings, law.law, contexts.columns, workload.columns, served).run();
    } else {
      totals = GroupSimulation(settings, law.law, contexts.columns, workload.columns, served).run();
    }
  }
  return py::make_tuple(
      py::make_tuple(release, scheduled, first_token, finish, recompute, gpu, cached, hittable, preemptions),
      py::make_tuple(totals.steps, totals.busy_ns, totals.end_ns, totals.evicted_blocks, totals.preemptions,
                     totals.peak_blocks, totals.unserved));
}

}  // namespace

void register_simulate(py::module_& module) {
  module.def("simulate", &run_simulation, py::arg("settings"), py::arg("law"), py::arg("contexts"), py::arg("workload"),
             "The columns of kvsim.backends.engine_kernels.Served, and the engine's totals in ENGINE_TOTALS' order.");
}

}  // namespace kvsim::bindings
