// Jobs on threads: taken one after the other by whoever is free, so that it makes no difference to results who that is.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace kvsim {

// Calls job(i) for each i in [0, jobs), on the calling thread and up to `threads` - 1 more that end with the call:
// nothing outlives it, so that a process may fork. The first exception is thrown on when all have ended.
template <typename Job>
void run_on_threads(std::int64_t threads, std::int64_t jobs, Job&& job) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failing;
  const auto work = [&] {
    try {
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < jobs;) job(i);
    } catch (...) {
      next.store(jobs, std::memory_order_relaxed);
      const std::lock_guard<std::mutex> lock(failing);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (std::int64_t i = 1; i < std::min(threads, jobs); ++i) {
    try {
      others.emplace_back(work);
    } catch (const std::system_error&) {  // as many as the system gives
      break;
    }
  }
  work();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace kvsim
