#include <memory>

#include "../simulate.hpp"
#include "arrays.hpp"
#include "engine_inputs.hpp"

namespace kvsim::bindings {

namespace {

constexpr i64 kLogColumns = 5;

// Replica, time, row, and the first and the end of the keys, one entry after the other.
std::vector<i64> told_evictions(const std::vector<EvictionLog>& logs, const Chains& chains,
                                const HeldContexts& contexts, i64 block_size) {
  const ChainKeys keys(chains, contexts.columns, block_size);
  std::vector<i64> told;
  for (std::size_t replica = 0; replica < logs.size(); ++replica) {
    for (const EvictionLog::Entry& entry : logs[replica].entries()) {
      keys.each(entry.chain, entry.lo, entry.hi, [&](i64 first, i64 end) {
        const i64 group = entry.group * contexts.keys;
        told.insert(told.end(), {static_cast<i64>(replica), entry.at_ns, entry.row, group + first, group + end});
      });
    }
  }
  return told;
}

py::tuple run_simulation(const py::handle& given_settings, const py::handle& given_law,
                         const py::handle& given_contexts, const py::handle& given_workload,
                         const py::handle& given_plan, const py::handle& given_fleet, const py::handle& given_timeline,
                         bool with_evictions) {
  const Settings settings = settings_from(given_settings);
  const HeldLaw law(given_law, settings);
  const HeldContexts contexts(given_contexts);
  const i64 rows = contexts.columns.rows;
  const HeldWorkload workload(given_workload, rows);
  const HeldPlan plan(given_plan, rows);
  const Fleet fleet = fleet_from(given_fleet);
  HeldTimeline timeline(given_timeline, fleet.replicas);

  HeldServed made(rows, fleet.replicas);
  std::vector<i64> evictions;  // kLogColumns numbers an entry
  {
    py::gil_scoped_release unlocked;
    made.clear();
    const auto run = [&](auto&& simulation) {
      std::vector<EvictionLog> logs;
      if (with_evictions) simulation.keep(logs);
      made.totals = simulation.run();
      if (with_evictions) evictions = told_evictions(logs, simulation.chains(), contexts, settings.block_size);
    };
    if (settings.one_full_group()) {
      run(Simulation(settings, law.law, contexts.columns, workload.columns, plan.plan, fleet, timeline.timeline,
                     made.served));
    } else {
      run(GroupSimulation(settings, law.law, contexts.columns, workload.columns, plan.plan, fleet, timeline.timeline,
                          made.served));
    }
  }
  const py::ssize_t entries = static_cast<py::ssize_t>(evictions.size()) / kLogColumns;
  py::array_t<i64> log({entries, py::ssize_t{kLogColumns}});
  std::copy(evictions.begin(), evictions.end(), log.mutable_data());
  return py::make_tuple(made.told_columns(), made.told_totals(), log);
}

}  // namespace

void register_simulate(py::module_& module) {
  module.def(
      "simulate", &run_simulation, py::arg("settings"), py::arg("law"), py::arg("contexts"), py::arg("workload"),
      py::arg("plan"), py::arg("fleet"), py::arg("timeline"), py::arg("evictions") = false,
      "The columns of kvsim.backends.engine_kernels.Served, each replica's totals in REPLICA_TOTALS' order, and the "
      "log of evictions (empty unless asked for): replica, time, row, first key and end of the keys.");
}

}  // namespace kvsim::bindings
