#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "memory.hpp"
#include "simulations.hpp"

namespace kvsim::cuda {

namespace {

// ---- On the device ----

// A simulation as its block finds it; all pointers are the device's.
struct Job {
  EngineLimits limits;
  const i64* windows;
  i64 groups;
  StepLaw law;
  Contexts contexts;
  Workload workload;
  Plan plan;
  Fleet fleet;
  Timeline timeline;
  Served served;
  ReplicaTotals* totals;
  i64* exhausted;
  std::byte* arena;
  i64 arena_bytes;
};

// The block's memory is its simulation's while this lives.
class OpenArena {
 public:
  KVSIM_FN explicit OpenArena(const Job& job) { arena().open(job.arena, job.arena_bytes, job.exhausted); }
  KVSIM_FN ~OpenArena() { arena().close(); }
};

template <class S>
__device__ void run_job(const Job& job, const Settings& settings) {
  // Never ended: its memory goes with the arena.
  auto* const simulation = make_in_arena<BasicSimulation<S>>(settings, job.law, job.contexts, job.workload, job.plan,
                                                             job.fleet, job.timeline, job.served);
  const Vector<ReplicaTotals> totals = simulation->run();
  for (std::size_t replica = 0; replica < totals.size(); ++replica) job.totals[replica] = totals[replica];
}

// A simulation is one thing after another: one thread runs it.
template <class S>
__global__ void __launch_bounds__(1) run_jobs(const Job* jobs) {
  const Job& job = jobs[blockIdx.x];
  const OpenArena open(job);
  Settings settings;
  static_cast<EngineLimits&>(settings) = job.limits;
  settings.windows.assign(job.windows, job.windows + job.groups);
  run_job<S>(job, settings);
}

// ---- On the host ----

i64 rows_of(const Simulated& one) { return one.contexts.rows; }

// What is copied to the device: `take(pointer, count)`; a column that is missing stays null.
template <class Take>
void each_input(const Simulated& of, Job& job, Take&& take) {
  const i64 rows = of.contexts.rows, trajectories = of.workload.trajectories;
  const i64 by_sequences = of.settings.max_num_seqs + 1;
  take(job.windows, job.groups);
  take(job.law.step, of.settings.max_num_batched_tokens + 1);
  take(job.law.sequences, by_sequences);
  for (GroupLaw* group : {&job.law.full, &job.law.windowed}) {
    take(group->decode, by_sequences);
    take(group->mixed, by_sequences);
  }
  Contexts& contexts = job.contexts;
  for (const i64** column :
       {&contexts.prompt, &contexts.output, &contexts.priority, &contexts.above, &contexts.own_from,
        &contexts.first_key, &contexts.prefix_key, &contexts.hittable, &contexts.continues}) {
    take(*column, rows);
  }
  Workload& workload = job.workload;
  take(workload.roots, of.workload.roots_start[trajectories]);
  take(workload.dependants, of.workload.dependants_start[rows]);
  take(workload.start_ns, trajectories);
  take(workload.roots_start, trajectories + 1);
  take(workload.dependants_start, rows + 1);
  for (const i64** column :
       {&workload.trajectory, &workload.offset_ns, &workload.pause_ns, &workload.needs, &workload.refused}) {
    take(*column, rows);
  }
  Plan& plan = job.plan;
  for (const i64** column : {&plan.hold_ns, &plan.next_use_ns, &plan.pause_us, &plan.recompute_us, &plan.swap_us}) {
    if (*column != nullptr) take(*column, rows);
  }
}

// What is copied back, in two parts: those values that stand at -1 before, and those at 0. `give(pointer, count)`.
template <class Give>
void each_output(const Simulated& of, Job& job, i64 before, Give&& give) {
  job.served.each_column([&](i64*& column, i64 at_first) {
    if (at_first == before) give(column, rows_of(of));
  });
  if (before != 0) return;
  static_assert(sizeof(ReplicaTotals) % sizeof(i64) == 0);
  constexpr i64 kTotals = sizeof(ReplicaTotals) / sizeof(i64);
  i64* totals = reinterpret_cast<i64*>(job.totals);
  give(totals, of.fleet.replicas * kTotals);
  job.totals = reinterpret_cast<ReplicaTotals*>(totals);
  give(job.exhausted, 1);
  give(job.timeline.level, of.fleet.replicas * of.timeline.bins);
  give(job.timeline.partial, of.fleet.replicas * of.timeline.bins);
}

Job job_of(const Simulated& one) {
  Job job{};
  job.limits = one.settings;
  job.windows = one.settings.windows.data();
  job.groups = static_cast<i64>(one.settings.windows.size());
  job.law = one.law;
  job.contexts = one.contexts;
  job.workload = one.workload;
  job.plan = one.plan;
  job.fleet = one.fleet;
  job.timeline = one.timeline;
  job.served = one.served;
  job.totals = one.totals;
  return job;
}

// What most simulations do with.
i64 usual_bytes(const Simulated& one) {
  const i64 rows = rows_of(one), groups = static_cast<i64>(one.settings.windows.size());
  i64 replica = 1024 * one.settings.max_num_seqs + 48 * one.settings.block_size + 256 * rows;
  if (!one.settings.one_full_group()) replica += (96 + 32 * groups) * one.settings.num_gpu_blocks;
  return (64 << 10) + 256 * rows + 32 * one.workload.trajectories + one.fleet.replicas * replica;
}

// Simulations that run at a time, as they lie on the device: inputs, then what is copied back, then arenas. An array of
// the host that several of them read lies there once.
class Chunk {
 public:
  // Adds one, unless there would be more than `room` bytes then.
  bool add(const Simulated& one, i64 arena_bytes, std::size_t room) {
    Job job = job_of(one);
    std::vector<Key> unknown;
    std::size_t more = arena_bytes + 2 * Layout::kAlignment + sizeof(Job);
    each_input(one, job, [&](const i64*& column, i64 count) {
      const Key key{column, count};
      if (at_.count(key) > 0 || std::find(unknown.begin(), unknown.end(), key) != unknown.end()) return;
      unknown.push_back(key);
      more += bytes_of(count);
    });
    for (const i64 before : {-1, 0}) each_output(one, job, before, [&](auto&, i64 count) { more += bytes_of(count); });
    if (bytes_ + more > room && !members_.empty()) return false;
    bytes_ += more;
    for (const Key& key : unknown) at_.emplace(key, input_.add<i64>(key.second));
    members_.push_back({&one, arena_bytes});
    return true;
  }

  std::size_t bytes() const { return bytes_; }

  // Runs those with such a scheduler; says which of all have to be run again.
  void run(DeviceRoom& device, PinnedRoom& host, const Stream& stream) {
    Layout minus, zero;
    for (const Member& member : members_) {
      Job job = job_of(*member.of);
      each_output(*member.of, job, -1, [&](auto&, i64 count) { minus.add<i64>(count); });
      each_output(*member.of, job, 0, [&](auto&, i64 count) { zero.add<i64>(count); });
    }
    const std::size_t jobs_at = input_.add<Job>(static_cast<i64>(members_.size()));
    const std::size_t minus_at = input_.bytes(), zero_at = minus_at + minus.bytes();
    std::size_t arena_at = zero_at + zero.bytes();
    std::byte* const base = device.room_for(std::max(bytes_, arena_at + arena_bytes()));
    back_ = host.room_for(minus.bytes() + zero.bytes());

    std::vector<std::byte> staged(input_.bytes());
    for (const auto& [key, at] : at_) {
      if (key.second > 0) std::memcpy(staged.data() + at, key.first, static_cast<std::size_t>(key.second) * 8);
    }
    // Simulations of one group of full attention first.
    std::stable_partition(members_.begin(), members_.end(),
                          [](const Member& member) { return member.of->settings.one_full_group(); });
    Layout minus_again, zero_again;
    std::vector<Job> jobs;
    i64 full = 0;
    for (const Member& member : members_) {
      Job job = job_of(*member.of);
      each_input(*member.of, job, [&](const i64*& column, i64 count) {
        column = reinterpret_cast<const i64*>(base + at_.at({column, count}));
      });
      each_output(*member.of, job, -1, [&](i64*& column, i64 count) {
        column = reinterpret_cast<i64*>(base + minus_at + minus_again.add<i64>(count));
      });
      each_output(*member.of, job, 0, [&](i64*& column, i64 count) {
        column = reinterpret_cast<i64*>(base + zero_at + zero_again.add<i64>(count));
      });
      job.arena = base + arena_at;
      job.arena_bytes = member.arena_bytes;
      arena_at += aligned(member.arena_bytes);
      full += member.of->settings.one_full_group();
      jobs.push_back(job);
    }
    std::memcpy(staged.data() + jobs_at, jobs.data(), jobs.size() * sizeof(Job));
    check(cudaMemcpyAsync(base, staged.data(), staged.size(), cudaMemcpyHostToDevice, stream),
          "simulations cannot be copied to the device");
    check(cudaMemsetAsync(base + minus_at, 0xFF, minus.bytes(), stream), "the device's memory cannot be cleared");
    check(cudaMemsetAsync(base + zero_at, 0, zero.bytes(), stream), "the device's memory cannot be cleared");
    const auto* on_device = reinterpret_cast<const Job*>(base + jobs_at);
    launch_blocks(&run_jobs<Scheduler>, full, 1, stream, on_device);
    launch_blocks(&run_jobs<GroupScheduler>, static_cast<i64>(jobs.size()) - full, 1, stream, on_device + full);
    check(cudaMemcpyAsync(back_, base + minus_at, minus.bytes() + zero.bytes(), cudaMemcpyDeviceToHost, stream),
          "what was simulated cannot be copied from the device");
    stream.wait();
    deliver(minus.bytes());
  }

  // Those that ran out of memory, and how much they had.
  const std::vector<std::pair<const Simulated*, i64>>& exhausted() const { return exhausted_; }

 private:
  using Key = std::pair<const i64*, i64>;
  struct Member {
    const Simulated* of;
    i64 arena_bytes;
  };

  static std::size_t aligned(std::size_t bytes) {
    return (bytes + Layout::kAlignment - 1) / Layout::kAlignment * Layout::kAlignment;
  }
  static std::size_t bytes_of(i64 count) { return aligned(static_cast<std::size_t>(count) * sizeof(i64)); }
  std::size_t arena_bytes() const {
    std::size_t all = 0;
    for (const Member& member : members_) all += aligned(member.arena_bytes);
    return all;
  }

  void deliver(std::size_t zero_at) {
    Layout minus, zero;
    for (const Member& member : members_) {
      Job made = job_of(*member.of);
      const Job wanted = made;
      each_output(*member.of, made, -1,
                  [&](i64*& column, i64 count) { column = reinterpret_cast<i64*>(back_ + minus.add<i64>(count)); });
      each_output(*member.of, made, 0, [&](i64*& column, i64 count) {
        column = reinterpret_cast<i64*>(back_ + zero_at + zero.add<i64>(count));
      });
      if (*made.exhausted != 0) {
        exhausted_.emplace_back(member.of, member.arena_bytes);
        continue;
      }
      std::vector<i64*> columns;
      Served to = wanted.served;
      to.each_column([&](i64*& column, i64) { columns.push_back(column); });
      std::size_t number = 0;
      made.served.each_column(
          [&](const i64* column, i64) { std::copy_n(column, rows_of(*member.of), columns[number++]); });
      std::copy_n(made.totals, member.of->fleet.replicas, wanted.totals);
      const i64 bins = member.of->fleet.replicas * member.of->timeline.bins;
      for (i64 bin = 0; bin < bins; ++bin) {
        wanted.timeline.level[bin] += made.timeline.level[bin];
        wanted.timeline.partial[bin] += made.timeline.partial[bin];
      }
    }
  }

  std::vector<Member> members_;
  std::map<Key, std::size_t> at_;  // where the host's arrays lie
  Layout input_;
  std::size_t bytes_ = 2 * Layout::kAlignment;
  std::byte* back_ = nullptr;
  std::vector<std::pair<const Simulated*, i64>> exhausted_;
};

struct Workspace {
  Stream stream;
  DeviceRoom device;
  PinnedRoom host;
};

// Kept between calls.
Shelf<Workspace>& shelf() {
  static auto* const shelf = new Shelf<Workspace>;
  return *shelf;
}

std::atomic<i64> run_again{0};

}  // namespace

void simulate(const std::vector<Simulated>& simulations, i64 arena_bytes) {
  if (simulations.empty()) return;
  std::unique_ptr<Workspace> workspace = shelf().take();
  std::size_t free_bytes = 0, all = 0;
  check(cudaMemGetInfo(&free_bytes, &all), "the device's memory cannot be asked for");
  const std::size_t room = free_bytes / 10 * 9 + workspace->device.bytes();
  std::vector<std::pair<const Simulated*, i64>> waiting;
  for (const Simulated& one : simulations) waiting.emplace_back(&one, arena_bytes > 0 ? arena_bytes : usual_bytes(one));
  while (!waiting.empty()) {
    std::vector<std::pair<const Simulated*, i64>> again;
    for (std::size_t next = 0; next < waiting.size();) {
      Chunk chunk;
      while (next < waiting.size() && chunk.add(*waiting[next].first, waiting[next].second, room)) ++next;
      if (chunk.bytes() > room) {
        throw DeviceError("a simulation needs " + std::to_string((chunk.bytes() >> 20) + 1) +
                          " MiB of device memory, of which " + std::to_string(room >> 20) + " MiB can be had");
      }
      try {
        chunk.run(workspace->device, workspace->host, workspace->stream);
      } catch (...) {
        cudaStreamSynchronize(workspace->stream);
        throw;
      }
      for (const auto& [of, bytes] : chunk.exhausted()) again.emplace_back(of, 2 * bytes);
    }
    run_again += static_cast<i64>(again.size());
    waiting = std::move(again);
  }
  shelf().put_back(std::move(workspace));
}

i64 simulations_run_again() { return run_again; }

void release_simulation_memory() { shelf().clear(); }

}  // namespace kvsim::cuda
