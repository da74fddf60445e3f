// Many independent simulations on a device, each run by one block.
#pragma once

#include <vector>

#include "../simulate.hpp"

namespace kvsim::cuda {

// One simulation: what csrc/simulate.hpp takes, in the host's memory.
struct Simulated {
  Settings settings;
  StepLaw law;
  Contexts contexts;
  Workload workload;
  Plan plan;
  Fleet fleet;
  Timeline timeline;                // is added to
  Served served;                    // is written
  ReplicaTotals* totals = nullptr;  // likewise, one a replica
};

// Runs them all, as many at a time as fit into the device's memory. One that runs out of the memory it was given (0:
// by its size; else so many bytes at first) is run again with twice as much. Throws DeviceError where the device fails,
// or has no room for one of them.
void simulate(const std::vector<Simulated>& simulations, i64 arena_bytes);

// How many have been run again since the module was loaded.
i64 simulations_run_again();

// Gives back what is kept between calls.
void release_simulation_memory();

}  // namespace kvsim::cuda
