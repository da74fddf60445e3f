#include "arrays.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "kvsim's C++ core: pricing turns from integer tables.";
  kvsim::bindings::register_rates(module);
  kvsim::bindings::register_turns(module);
  kvsim::bindings::register_estimate(module);
  kvsim::bindings::register_scheduler(module);
  kvsim::bindings::register_simulate(module);
  kvsim::bindings::register_without(module);
  kvsim::bindings::register_run_sums(module);
}
