// The pretended card, for tests to set.
#pragma once

#include <cstddef>

namespace emulation {

// A card with so much memory; without one, devices cannot be found for the reason that `driver` leaves.
void pretend(std::size_t memory_bytes, bool driver, bool device);

// What is allocated on the card, and kernels and copies so far.
struct Counts {
  std::size_t device_bytes;
  std::size_t allocations;
  std::size_t kernels;
  std::size_t copies;
  std::size_t most_device_bytes;
};
Counts counts();

// Lets the host see device memory from now on: for arrays handed to numpy.
void expose(const void* data);

// Memory of others that is the device's from now on, until it is let go: numpy's arrays in place of torch's.
void adopt(const void* data, std::size_t bytes);
void let_go(const void* data);

}  // namespace emulation
