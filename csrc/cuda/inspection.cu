#include "inspection.hpp"

namespace kvsim::cuda {

namespace {

constexpr i64 kInspectors = i64{1} << 16;  // threads: each looks at many rows before it tells

struct Found {
  Findings most{~0ULL, 0, 0, 0, 0, 0, 0, 0, 0, 0};

  KVSIM_HD void refuse(i64 row, Check check) {
    const auto code = static_cast<unsigned long long>(row * kChecks + check);
    if (code < most.fault) most.fault = code;
  }
  static KVSIM_HD void raise(unsigned long long& most, i64 value) {
    if (static_cast<unsigned long long>(value) > most) most = static_cast<unsigned long long>(value);
  }
};

KVSIM_HD bool within(i64 value, i64 low, i64 high) { return low <= value && value <= high; }

KVSIM_HD void inspect_row(const Turns& turns, i64 waited, i64 row, Found& found) {
  const i64 last = turns.rows - 1;
  const i64 own = turns.trajectory[row], parent = turns.parent[row], after = turns.after[row];
  const i64 prompt = turns.prompt[row], output = turns.output[row], kept = turns.kept[row];
  const auto depend = [&](i64 need) {
    if (need >= row) ++found.most.backward;
    if (turns.trajectory[need] != own) ++found.most.across;
  };

  const i64 before = row > 0 ? turns.trajectory[row - 1] : -1;
  if (!within(own, 0, last)) return found.refuse(row, kTrajectoryCheck);
  if (own != before && own != before + 1) ++found.most.unsorted;
  Found::raise(found.most.last_trajectory, own);
  if (!within(parent, -1, last)) return found.refuse(row, kParentCheck);
  if (!within(prompt, 1, kMostTokens)) return found.refuse(row, kPromptCheck);
  if (!within(output, 0, kMostTokens)) return found.refuse(row, kOutputCheck);
  Found::raise(found.most.most_prompt, prompt);
  Found::raise(found.most.most_output, output);
  Found::raise(found.most.most_tokens, prompt + max_of(output, 1));
  i64 keepable = 0;
  if (parent >= 0) {
    depend(parent);
    const i64 above = turns.prompt[parent], answer = turns.output[parent];
    // A parent that is not valid is refused itself.
    keepable = within(above, 1, kMostTokens) && within(answer, 0, kMostTokens) ? above + answer : kMostTokens;
  }
  if (!within(kept, 0, min_of(keepable, prompt))) return found.refuse(row, kKeptCheck);
  if (!within(turns.pause_ns[row], 0, kMostNs)) return found.refuse(row, kPauseCheck);
  if (!within(turns.arrival_ns[row], 0, kMostNs)) return found.refuse(row, kArrivalCheck);
  found.most.pauses += static_cast<unsigned long long>(turns.pause_ns[row] >> 20) + 1;
  Found::raise(found.most.last_arrival_ns, turns.arrival_ns[row]);
  if (!within(after, -1, last)) return found.refuse(row, kAfterCheck);
  if (after >= 0) depend(after);
  if (turns.waits_offsets != nullptr) {
    const i64 first = turns.waits_offsets[row], end = turns.waits_offsets[row + 1];
    const bool ends_there = row < last || end == waited;
    const bool begins_there = row > 0 || first == 0;
    if (!within(first, 0, end) || end > waited || !begins_there || !ends_there) return found.refuse(row, kWaitsCheck);
    for (i64 w = first; w < end; ++w) {
      if (!within(turns.waits_rows[w], 0, last)) return found.refuse(row, kWaitsCheck);
      depend(turns.waits_rows[w]);
    }
  }
  if (turns.logged_cached != nullptr && !within(turns.logged_cached[row], -1, prompt)) {
    found.refuse(row, kCachedCheck);
  }
}

__global__ void inspect_rows(Turns turns, i64 waited, Findings* all) {
  const i64 threads = static_cast<i64>(gridDim.x) * blockDim.x;
  Found found;
  for (i64 row = thread_number(); row < turns.rows; row += threads) inspect_row(turns, waited, row, found);
  atomicMin(&all->fault, found.most.fault);
  atomicMax(&all->most_prompt, found.most.most_prompt);
  atomicMax(&all->most_output, found.most.most_output);
  atomicMax(&all->most_tokens, found.most.most_tokens);
  atomicMax(&all->last_arrival_ns, found.most.last_arrival_ns);
  atomicMax(&all->last_trajectory, found.most.last_trajectory);
  atomicAdd(&all->pauses, found.most.pauses);
  atomicAdd(&all->unsorted, found.most.unsorted);
  atomicAdd(&all->backward, found.most.backward);
  atomicAdd(&all->across, found.most.across);
}

__global__ void mark_starts(Turns turns, i64* starts, i64* trajectory_starts) {
  const i64 row = thread_number();
  if (row >= turns.rows) return;
  const i64 own = turns.trajectory[row];
  if (row > 0 && turns.trajectory[row - 1] == own) return;
  starts[own] = row;
  trajectory_starts[own] = own;
  if (own > 0) return;
  starts[turns.trajectories] = turns.rows;
  trajectory_starts[turns.trajectories] = turns.trajectories;
}

struct Cut {
  i64 prompt, output;
};

KVSIM_HD Cut cut_of(const Turns& turns, i64 tokens, i64 row) {
  const i64 output = min_of(turns.output[row], tokens - 1);
  return {min_of(turns.prompt[row], tokens - max_of(output, 1)), output};
}

__global__ void cut_rows(Turns turns, i64 tokens, i64* kept, i64* prompt, i64* output) {
  const i64 row = thread_number();
  if (row >= turns.rows) return;
  const Cut own = cut_of(turns, tokens, row);
  prompt[row] = own.prompt;
  output[row] = own.output;
  kept[row] = min_of(turns.kept[row], own.prompt);
  const i64 parent = turns.parent[row];
  if (parent < 0) return;
  const Cut above = cut_of(turns, tokens, parent);
  kept[row] = min_of(kept[row], above.prompt + above.output);
}

}  // namespace

void launch_inspection(const Turns& turns, i64 waited, Findings* findings, cudaStream_t stream) {
  launch(&inspect_rows, min_of(turns.rows, kInspectors), stream, turns, waited, findings);
}

void launch_marking(const Turns& turns, i64* starts, i64* trajectory_starts, cudaStream_t stream) {
  launch(&mark_starts, turns.rows, stream, turns, starts, trajectory_starts);
}

void launch_cutting(const Turns& turns, i64 tokens, i64* kept, i64* prompt, i64* output, cudaStream_t stream) {
  launch(&cut_rows, turns.rows, stream, turns, tokens, kept, prompt, output);
}

}  // namespace kvsim::cuda
