// Tests of the engine without Python, built with sanitizers: closed forms against stepping, and whole simulations of
// random prefix trees, after which every block is free again and all time is shared out.
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "../../csrc/simulate.hpp"
#include "check.hpp"

namespace {

using namespace kvsim;

using Column = std::vector<i64>;

void decode_stretches_sum_their_steps(Random& random) {
  DecodeStretch stretch{draw(random, 0, 9000), draw(random, 0, 90)};
  i64 sum = 0;
  for (i64 step = 0; step < 50; ++step) {
    sum += stretch.first + step * stretch.growth;
    CHECK_EQUAL(stretch.units(step + 1), sum);
  }
  const i64 wanted = draw(random, 0, stretch.units(50));
  const i64 steps = stretch.steps_until(wanted, 50);
  CHECK_EQUAL(stretch.units(steps) >= wanted, 1);
  if (steps > 1) CHECK_EQUAL(stretch.units(steps - 1) < wanted, 1);
}

// Steps one engine by hand until all rows are served: every block is free again.
template <class S>
void steps_lose_no_block(const Settings& settings, const Contexts& contexts, const Plan& plan) {
  const Chains chains(contexts);
  S scheduler(settings, contexts, chains, plan);
  for (i64 row = 0; row < contexts.rows; ++row) scheduler.arrive(row, 0);
  i64 now_ns = 0;
  for (i64 left = contexts.rows; left > 0; now_ns += 1000) {
    scheduler.schedule(now_ns);
    if (settings.async_scheduling && scheduler.steps_in_flight() == 1) scheduler.schedule(now_ns);
    scheduler.update(now_ns, [](auto&) {}, [&](auto&) { --left; });
  }
  scheduler.schedule(kForever);  // all pauses end
  CHECK_EQUAL(scheduler.pool().free_blocks(), settings.num_gpu_blocks - 1);
}

// Random trees: each row extends an earlier one or is a root; a row comes when the one it extends has finished.
void simulations_lose_nothing(Random& random) {
  const i64 rows = draw(random, 1, 60);
  Settings settings;
  settings.block_size = draw(random, 1, 16);
  settings.max_num_batched_tokens = draw(random, settings.block_size, 200);
  settings.max_num_seqs = draw(random, 1, 20);
  settings.watermark_blocks = draw(random, 0, 2);
  settings.scheduler_reserve_full_isl = draw(random, 0, 1);
  settings.priority = draw(random, 0, 1);
  settings.retention = draw(random, kNoCaching, kLruRetention);
  settings.async_scheduling = draw(random, 0, 1);

  Column prompt(rows), output(rows), priority(rows), above(rows), own_from(rows), prefix_key(rows, -1), zero(rows, 0);
  Column trajectory(rows), needs(rows), dependants, dependants_start(rows + 1), roots, roots_start, start, pause(rows);
  Column continues(rows, 0), continued(rows, 0), hold(rows), next_use(rows);
  Column first_key(rows);
  i64 most_blocks = 0, keys = 0;
  for (i64 row = 0; row < rows; ++row) {
    above[row] = row > 0 && draw(random, 0, 3) > 0 ? draw(random, 0, row - 1) : -1;
    const i64 kept = above[row] >= 0 ? draw(random, 0, prompt[above[row]] + output[above[row]]) : 0;
    prompt[row] = kept + draw(random, kept > 0 ? 0 : 1, 90);
    output[row] = draw(random, 1, 40);
    priority[row] = draw(random, 0, 2);
    pause[row] = draw(random, 0, 100000);
    own_from[row] = kept / settings.block_size;
    first_key[row] = keys;
    keys += std::max<i64>((prompt[row] + output[row]) / settings.block_size - own_from[row], 0);
    needs[row] = above[row] >= 0;
    if (above[row] >= 0 && own_from[row] >= (prompt[above[row]] + output[above[row]]) / settings.block_size) {
      continues[row] = !continued[above[row]];
      continued[above[row]] = 1;
    }
    hold[row] = draw(random, 0, 1) ? draw(random, 0, 200000) : kForever;
    next_use[row] = draw(random, -1, 100000);
    trajectory[row] = above[row] >= 0 ? trajectory[above[row]] : static_cast<i64>(roots.size());
    if (above[row] < 0) {
      roots.push_back(row);
      start.push_back(draw(random, 0, 50000));
    }
    most_blocks = std::max(most_blocks, (prompt[row] + output[row]) / settings.block_size + 1);
  }
  roots_start.resize(roots.size() + 1);
  std::iota(roots_start.begin(), roots_start.end(), 0);
  for (i64 row = 0; row < rows; ++row) {
    for (i64 child = 0; child < rows; ++child) {
      if (above[child] == row) dependants.push_back(child);
    }
    dependants_start[row + 1] = static_cast<i64>(dependants.size());
  }
  if (draw(random, 0, 1)) {
    settings.windows.resize(draw(random, 1, 4));
    for (i64& window : settings.windows) window = draw(random, 0, 2) * draw(random, 2, 40);
  }
  const bool one_full_group = settings.one_full_group();
  most_blocks *= static_cast<i64>(settings.windows.size());
  settings.num_gpu_blocks = most_blocks + 1 + draw(random, 0, 3 * most_blocks);

  Column step(settings.max_num_batched_tokens + 1), lines(settings.max_num_seqs + 1), decode(settings.max_num_seqs + 1);
  for (i64 i = 1; i < static_cast<i64>(step.size()); ++i) step[i] = draw(random, 1000, 9000);
  for (i64 i = 1; i < static_cast<i64>(lines.size()); ++i) lines[i] = i * 5, decode[i] = draw(random, 0, 20);
  Column mixed(decode);
  for (i64 i = 1; i < static_cast<i64>(mixed.size()); ++i) mixed[i] += draw(random, 0, 20);
  const GroupLaw group{2, 1, decode.data(), mixed.data()};
  const StepLaw law{3, step.data(), lines.data(), draw(random, 0, 1) * 50, draw(random, 0, 200), group, group};

  Contexts contexts{rows,         prompt.data(),   output.data(),    priority.data(),
                    above.data(), own_from.data(), first_key.data(), prefix_key.data(),
                    zero.data(),  continues.data()};
  Workload workload{static_cast<i64>(roots.size()),
                    start.data(),
                    1,
                    trajectory.data(),
                    zero.data(),
                    pause.data(),
                    needs.data(),
                    dependants.data(),
                    dependants_start.data(),
                    roots.data(),
                    roots_start.data(),
                    zero.data()};
  std::vector<Column> out(12, Column(rows, 0));
  const Served served{out[0].data(), out[1].data(), out[2].data(), out[3].data(), out[4].data(),  out[5].data(),
                      out[6].data(), out[7].data(), out[8].data(), out[9].data(), out[10].data(), out[11].data()};
  Plan plan;
  if (draw(random, 0, 2) == 0) plan.hold_ns = hold.data();
  if (one_full_group && draw(random, 0, 2) == 0) plan.next_use_ns = next_use.data();
  if (one_full_group && draw(random, 0, 2) == 0) {
    plan.host = draw(random, kWriteThrough, kOnEviction);
    plan.host_blocks = draw(random, 0, 3 * most_blocks);
    plan.load_ns = draw(random, 0, 2000);
  }
  const Fleet fleet{draw(random, 1, 3), draw(random, kRoundRobin, kPrefixAware)};
  const i64 bins = draw(random, 0, 50);  // long ones: the end of the last is beyond all time
  Column level(fleet.replicas * bins), partial(fleet.replicas * bins);
  const Timeline timeline{bins > 0 ? i64{1} << 40 : 0, bins, level.data(), partial.data()};
  i64 busy_ns = 0, preemptions = 0;
  std::vector<ReplicaTotals> all_totals;
  const auto run = [&](auto&& simulation) {
    std::vector<EvictionLog> logs;
    const bool keeps_log = draw(random, 0, 1);
    if (keeps_log) simulation.keep(logs);
    all_totals = simulation.run();
    const ChainKeys chain_keys(simulation.chains(), contexts, settings.block_size);
    for (std::size_t replica = 0; replica < logs.size(); ++replica) {
      i64 evicted = 0;
      for (const EvictionLog::Entry& entry : logs[replica].entries()) {
        evicted += entry.hi - entry.lo;
        chain_keys.each(entry.chain, entry.lo, entry.hi,
                        [&](i64 first, i64 end) { CHECK_EQUAL(0 <= first && first < end && end <= keys, 1); });
      }
      CHECK_EQUAL(evicted, all_totals[replica].evicted_blocks);
    }
  };
  if (one_full_group) {
    run(Simulation(settings, law, contexts, workload, plan, fleet, timeline, served));
  } else {
    run(GroupSimulation(settings, law, contexts, workload, plan, fleet, timeline, served));
  }
  for (const ReplicaTotals& totals : all_totals) {
    busy_ns += totals.busy_ns;
    preemptions += totals.preemptions;
    CHECK_EQUAL(totals.peak_blocks <= settings.num_gpu_blocks - 1, 1);
  }
  CHECK_EQUAL(std::accumulate(out[5].begin(), out[5].end(), i64{0}), busy_ns);
  CHECK_EQUAL(std::accumulate(out[10].begin(), out[10].end(), i64{0}), preemptions);
  for (i64 row = 0; row < rows; ++row) CHECK_EQUAL(out[3][row] > 0, 1);

  if (one_full_group) {
    steps_lose_no_block<Scheduler>(settings, contexts, plan);
  } else {
    steps_lose_no_block<GroupScheduler>(settings, contexts, plan);
  }
}

}  // namespace

int main() {
  Random random(7);
  for (int i = 0; i < 300; ++i) decode_stretches_sum_their_steps(random);
  for (int i = 0; i < 1500; ++i) simulations_lose_nothing(random);
  std::puts("engine: ok");
}
