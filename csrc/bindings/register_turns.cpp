#include "../order.hpp"
#include "arrays.hpp"

namespace kvsim::bindings {

void register_turns(py::module_& module) {
  using Optional = std::optional<IntArray>;
  py::class_<HeldTurns>(module, "Turns", py::module_local(), "The columns of a batch; absent optional ones are None.")
      .def(py::init([](i64 trajectories, IntArray parent, IntArray after, IntArray kept, IntArray prompt,
                       IntArray output, IntArray pause_ns, IntArray arrival_ns, IntArray trajectory, Optional order,
                       Optional waits_offsets, Optional waits_rows, Optional shared, Optional logged_cached) {
             HeldTurns held;
             Turns& turns = held.turns;
             turns.rows = parent.size();
             turns.trajectories = trajectories;
             auto hold = [&](const IntArray& array, py::ssize_t length, const char* name) {
               require_length(array, length, name);
               held.arrays.push_back(array);
               return array.data();
             };
             auto hold_optional = [&](const Optional& array, py::ssize_t length, const char* name) {
               return array ? hold(*array, length, name) : nullptr;
             };
             turns.parent = hold(parent, turns.rows, "parent");
             turns.after = hold(after, turns.rows, "after");
             turns.kept = hold(kept, turns.rows, "kept_tokens");
             turns.prompt = hold(prompt, turns.rows, "prompt_tokens");
             turns.output = hold(output, turns.rows, "output_tokens");
             turns.pause_ns = hold(pause_ns, turns.rows, "pause_ns");
             turns.arrival_ns = hold(arrival_ns, turns.rows, "arrival_ns");
             turns.trajectory = hold(trajectory, turns.rows, "trajectory");
             turns.order = hold_optional(order, turns.rows, "order");
             turns.waits_offsets = hold_optional(waits_offsets, turns.rows + 1, "waits_for offsets");
             turns.waits_rows = hold_optional(waits_rows, waits_rows ? waits_rows->size() : 0, "waits_for rows");
             turns.shared = hold_optional(shared, turns.rows, "shared_tokens");
             turns.logged_cached = hold_optional(logged_cached, turns.rows, "cached_tokens");
             held.cut->whole = whole(turns);
             return held;
           }),
           py::arg("trajectories"), py::arg("parent"), py::arg("after"), py::arg("kept"), py::arg("prompt"),
           py::arg("output"), py::arg("pause_ns"), py::arg("arrival_ns"), py::arg("trajectory"), py::arg("order"),
           py::arg("waits_offsets"), py::arg("waits_rows"), py::arg("shared"), py::arg("logged_cached"))
      .def(
          "topological_order",
          [](const HeldTurns& held) {
            std::vector<i64> order;
            {
              py::gil_scoped_release release;
              order = topological_order(held.turns);
            }
            return IntArray(static_cast<py::ssize_t>(order.size()), order.data());
          },
          "Rows in dependency order; rows on cycles are left out.");
}

}  // namespace kvsim::bindings
