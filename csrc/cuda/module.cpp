#include "../bindings/prices.hpp"
#include "devices.hpp"
#include "error.hpp"
#include "pricing.hpp"
#include "register_arrays.hpp"
#include "register_resident.hpp"
#include "register_simulations.hpp"
#include "resident.hpp"
#include "simulations.hpp"

#ifdef KVSIM_CUDA_EMULATION
#include "emulation/emulation.hpp"
#define KVSIM_MODULE _cuda_emulated
#else
#define KVSIM_MODULE _cuda
#endif

namespace kvsim::cuda {

namespace {

namespace py = pybind11;
using bindings::HeldTurns;
using bindings::IntArray;

struct HeldUnits {
  explicit HeldUnits(HeldTurns given) : held(std::move(given)), units(held.turns) {}
  HeldTurns held;
  Units units;
};

py::dict told_devices() {
  const Devices devices = query_devices();
  py::list found;
  for (const auto& device : devices.found) {
    py::dict entry;
    entry["name"] = device.name;
    entry["compute_capability"] = std::to_string(device.major) + "." + std::to_string(device.minor);
    entry["memory_bytes"] = device.memory_bytes;
    found.append(entry);
  }
  py::dict result;
  result["devices"] = found;
  result["reason"] = devices.reason;
  result["driver_version"] = devices.driver_version;
  result["runtime_version"] = devices.runtime_version;
  return result;
}

py::tuple run_estimate(const Rates& rates, const IntArray& step, const HeldUnits& given,
                       const std::optional<py::tuple>& columns, i64 threads) {
  const Law law = law_of(rates, step);
  const Turns& turns = given.held.turns;
  py::array_t<i64> totals({static_cast<py::ssize_t>(turns.trajectories), py::ssize_t{8}});
  py::array_t<double> held_block_ns(turns.trajectories);
  Prices prices;
  prices.totals = reinterpret_cast<Totals*>(totals.mutable_data());
  prices.held_block_ns = held_block_ns.mutable_data();
  if (columns) prices.columns = bindings::price_columns(*columns, turns.rows);
  {
    const py::gil_scoped_release release;
    price(law, {}, given.units, prices, threads);
  }
  return py::make_tuple(totals, held_block_ns);
}

py::array_t<double> run_pte(const Rates& rates, const IntArray& step, const HeldUnits& given,
                            const py::handle& weights) {
  const Law law = law_of(rates, step);
  const PteRates pte = pte_rates(weights);
  py::array_t<double> turns(given.held.turns.rows);
  Prices prices;
  prices.pte = turns.mutable_data();
  {
    const py::gil_scoped_release release;
    price(law, pte, given.units, prices, 1);
  }
  return turns;
}

#ifdef KVSIM_CUDA_EMULATION
void register_emulation(py::module_& module) {
  module.def("pretend", &emulation::pretend, py::arg("memory_bytes"), py::arg("driver") = true,
             py::arg("device") = true);
  module.def("counts", [] {
    const emulation::Counts counts = emulation::counts();
    return py::dict(py::arg("device_bytes") = counts.device_bytes, py::arg("allocations") = counts.allocations,
                    py::arg("kernels") = counts.kernels, py::arg("copies") = counts.copies,
                    py::arg("most_device_bytes") = counts.most_device_bytes);
  });
}
#endif

}  // namespace

// Imports with no driver present; `devices()` then says why there is none.
PYBIND11_MODULE(KVSIM_MODULE, module) {
  module.doc() = "kvsim's CUDA module: which devices there are, pricing and simulations on them.";
  py::register_local_exception<DeviceError>(module, "DeviceError");
  bindings::register_rates(module);
  bindings::register_turns(module);
  py::class_<HeldUnits>(module, "Units", py::module_local(), "Turns, divided into what is priced side by side.")
      .def(py::init<HeldTurns>(), py::arg("turns"))
      .def_property_readonly("count", [](const HeldUnits& held) { return held.units.count(); });
  register_arrays(module);
  register_resident(module);
  register_simulations(module);
  module.def("devices", &told_devices);
  module.def("estimate", &run_estimate, py::arg("rates"), py::arg("step"), py::arg("units"), py::arg("columns"),
             py::arg("threads") = 1, "As kvsim._core.estimate; so many threads copy.");
  module.def("pte", &run_pte, py::arg("rates"), py::arg("step"), py::arg("units"), py::arg("weights"),
             "PTE of every turn, float64 (rows,); weights as kvsim.metrics.pte.Weights.");
  module.def(
      "release_memory",
      [] {
        release_memory();
        release_resident_memory();
        release_simulation_memory();
      },
      "Gives back what is kept between calls.");
#ifdef KVSIM_CUDA_EMULATION
  register_emulation(module);
#endif
}

}  // namespace kvsim::cuda
