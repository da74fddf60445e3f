// Tests of the C++ core without Python, built with sanitizers: closed forms against stepping, order, pricing of DAGs.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "../../csrc/estimate.hpp"
#include "../../csrc/order.hpp"
#include "check.hpp"

namespace {

using namespace kvsim;

Rates draw_rates(Random& random) {
  Rates rates;
  rates.fraction_bits = draw(random, 0, 20);
  rates.chunk = draw(random, 1, 600);
  rates.chunk_step = draw(random, 0, i64{1} << 36);
  rates.prefill_step = draw(random, 0, 1 << 20);
  rates.decode_step = draw(random, 0, i64{1} << 36);
  auto group = [&] {
    return GroupRates{draw(random, 0, 1 << 20), draw(random, 0, 1 << 20), draw(random, 0, 1 << 20),
                      draw(random, 0, 1 << 20)};
  };
  rates.full = group();
  rates.windowed = group();
  rates.window = draw(random, 0, 1) * draw(random, 1, 900);
  rates.others = draw(random, 0, 40);
  rates.mean_context = draw(random, -1, 3000);
  rates.block_size = draw(random, 1, 40);
  rates.usable_blocks = draw(random, 1, 500);
  rates.max_model_len = draw(random, 100, 5000);
  rates.ttl_ns = draw(random, 0, 1'000'000'000);
  rates.churn_ns = draw(random, 1, 10'000'000);
  return rates;
}

void closed_forms_equal_stepping() {
  Random random(1);
  for (int round = 0; round < 300; ++round) {
    const Rates rates = draw_rates(random);
    std::vector<i64> step(rates.chunk + 1);
    for (i64& time : step) time = draw(random, 0, i64{1} << 36);
    const i64 cached = draw(random, 0, 1500), count = draw(random, 1, 1500), prompt = cached + count;
    const i64 beside = rates.mean_context >= 0 ? rates.mean_context : prompt;
    i64 time = 0;
    for (i64 done = 0; done < count;) {
      const i64 tokens = min_of(rates.chunk, count - done), start = cached + done;
      time += done + tokens == count ? step[tokens] + rates.prefill_step : rates.chunk_step;
      time += rates.full.beside * beside + rates.full.context * (start + tokens);
      for (i64 i = 1; i <= tokens; ++i) time += rates.full.pair * (start + i);
      if (rates.window > 0) {
        time += rates.windowed.beside * min_of(beside, rates.window);
        time += rates.windowed.context * min_of(start + tokens, rates.window + tokens);
        for (i64 i = 1; i <= tokens; ++i) time += rates.windowed.pair * min_of(start + i, rates.window);
      }
      done += tokens;
    }
    CHECK_EQUAL(prefill_time(rates, step.data(), cached, count), time);

    const i64 steps = draw(random, 0, 500);
    time = 0;
    for (i64 i = 1; i <= steps; ++i) {
      const i64 own = prompt + i, other = rates.mean_context >= 0 ? rates.mean_context : own;
      time += rates.decode_step + rates.full.decode * (own + rates.others * other);
      if (rates.window > 0) {
        time += rates.windowed.decode * (min_of(own, rates.window) + rates.others * min_of(other, rates.window));
      }
    }
    CHECK_EQUAL(decode_time(rates, prompt, steps), time);
  }
}

// A random DAG in random row order; returns its columns.
struct Dag {
  std::vector<i64> parent, after, kept, prompt, output, pause, arrival, trajectory, waits_offsets, waits_rows, order;
  Turns turns;
};

Dag draw_dag(Random& random, i64 rows, i64 trajectories, bool plain) {
  Dag dag;
  for (auto* column :
       {&dag.parent, &dag.after, &dag.kept, &dag.prompt, &dag.output, &dag.pause, &dag.arrival, &dag.trajectory}) {
    column->assign(rows, 0);
  }
  std::vector<i64> place(rows);
  for (i64 i = 0; i < rows; ++i) place[i] = i;
  if (!plain) std::shuffle(place.begin(), place.end(), random);
  std::vector<std::vector<i64>> waits(rows);
  for (i64 i = 0; i < rows; ++i) {
    const i64 row = place[i];
    dag.prompt[row] = draw(random, 1, 2000);
    dag.output[row] = draw(random, 0, 300);
    dag.parent[row] = i > 0 && draw(random, 0, 3) > 0 ? place[draw(random, 0, i - 1)] : -1;
    dag.after[row] = draw(random, 0, 1) == 0 || i == 0 ? dag.parent[row] : place[draw(random, 0, i - 1)];
    const i64 length = dag.parent[row] >= 0 ? dag.prompt[dag.parent[row]] + dag.output[dag.parent[row]] : 0;
    dag.kept[row] = draw(random, 0, min_of(length, dag.prompt[row]));
    dag.pause[row] = draw(random, 0, 1'000'000'000);
    dag.arrival[row] = draw(random, 0, 1'000'000'000);
    dag.trajectory[row] = i < trajectories ? i : draw(random, 0, trajectories - 1);
    if (!plain && i > 0 && draw(random, 0, 4) == 0) waits[row].push_back(place[draw(random, 0, i - 1)]);
  }
  dag.waits_offsets.push_back(0);
  for (const auto& rows_waited : waits) {
    dag.waits_rows.insert(dag.waits_rows.end(), rows_waited.begin(), rows_waited.end());
    dag.waits_offsets.push_back(static_cast<i64>(dag.waits_rows.size()));
  }
  Turns& turns = dag.turns;
  turns.rows = rows;
  turns.trajectories = trajectories;
  turns.parent = dag.parent.data();
  turns.after = dag.after.data();
  turns.kept = dag.kept.data();
  turns.prompt = dag.prompt.data();
  turns.output = dag.output.data();
  turns.pause_ns = dag.pause.data();
  turns.arrival_ns = dag.arrival.data();
  turns.trajectory = dag.trajectory.data();
  if (plain) return dag;
  turns.waits_offsets = dag.waits_offsets.data();
  turns.waits_rows = dag.waits_rows.data();
  dag.order = topological_order(turns);
  turns.order = dag.order.data();
  return dag;
}

template <i64 kSurvival, bool kPlain>
void dags_are_priced_consistently() {
  Random random(2 + kSurvival);
  for (int round = 0; round < 60; ++round) {
    Rates rates = draw_rates(random);
    rates.survival = kSurvival;
    if (kPlain) {
      rates.window = 0;
      rates.block_size = 16;
      rates.block_shift = 4;
    }
    std::vector<i64> step(rates.chunk + 1);
    for (i64& time : step) time = draw(random, 0, i64{1} << 36);
    const i64 rows = draw(random, 1, 60), trajectories = draw(random, 1, rows);
    const Dag dag = draw_dag(random, rows, trajectories, kPlain);
    CHECK_EQUAL(is_plain(rates, dag.turns), kPlain);
    CHECK_EQUAL(kPlain || static_cast<i64>(dag.order.size()) == rows, true);

    std::vector<i64> finish(rows), release(rows), fresh(rows), recompute(rows), decode(rows), cached(rows), lost(rows);
    std::vector<double> held(rows), held_total(trajectories);
    std::vector<std::int8_t> status(rows);
    std::vector<Totals> totals(trajectories), without(trajectories);
    const PriceColumns out{release.data(), fresh.data(), recompute.data(), decode.data(),
                           cached.data(),  lost.data(),  held.data(),      status.data()};
    const Piece all = whole(dag.turns).pieces[0];
    estimate<kSurvival, true, false>(rates, step.data(), dag.turns, all, finish.data(), totals.data(),
                                     held_total.data(), out);
    estimate<kSurvival, false, kPlain>(rates, step.data(), dag.turns, all, finish.data(), without.data(),
                                       held_total.data(), {});

    std::vector<Totals> summed(trajectories);
    for (i64 row = 0; row < rows; ++row) {
      CHECK_EQUAL(finish[row], release[row] + fresh[row] + recompute[row] + decode[row]);
      CHECK_EQUAL(fresh[row] >= 0 && recompute[row] >= 0 && decode[row] >= 0 && held[row] >= 0.0, true);
      CHECK_EQUAL(cached[row] >= 0 && lost[row] >= 0 && cached[row] + lost[row] < dag.prompt[row], true);
      if (dag.after[row] >= 0) CHECK_EQUAL(release[row] >= finish[dag.after[row]] + dag.pause[row], true);
      Totals& sum = summed[dag.trajectory[row]];
      sum.first_release_ns = min_of(sum.first_release_ns, release[row]);
      sum.last_finish_ns = max_of(sum.last_finish_ns, finish[row]);
      sum.fresh_ns += fresh[row];
      sum.recompute_ns += recompute[row];
      sum.decode_ns += decode[row];
      sum.cached_tokens += cached[row];
      sum.recomputed_tokens += lost[row];
      sum.unpriced_turns += status[row] != kOk;
    }
    for (i64 t = 0; t < trajectories; ++t) {
      for (const Totals& total : {totals[t], without[t]}) {
        CHECK_EQUAL(total.first_release_ns, summed[t].first_release_ns);
        CHECK_EQUAL(total.last_finish_ns, summed[t].last_finish_ns);
        CHECK_EQUAL(total.fresh_ns, summed[t].fresh_ns);
        CHECK_EQUAL(total.recompute_ns, summed[t].recompute_ns);
        CHECK_EQUAL(total.decode_ns, summed[t].decode_ns);
        CHECK_EQUAL(total.cached_tokens, summed[t].cached_tokens);
        CHECK_EQUAL(total.recomputed_tokens, summed[t].recomputed_tokens);
        CHECK_EQUAL(total.unpriced_turns, summed[t].unpriced_turns);
      }
    }
  }
}

// Trajectories that depend on few others, row by row or one after the other.
Dag draw_families(Random& random, i64 rows, i64 trajectories, bool plain, bool one_after_the_other) {
  Dag dag = draw_dag(random, rows, trajectories, plain);
  std::vector<std::vector<i64>> earlier(trajectories);
  for (i64 i = 0; i < rows; ++i) {
    const i64 row = plain ? i : dag.order[i];
    i64& own = dag.trajectory[row];
    if (one_after_the_other) own = row * trajectories / rows;
    const auto choose = [&](i64& reference) {
      std::vector<i64>& known = draw(random, 0, 9) == 0 ? earlier[draw(random, 0, trajectories - 1)] : earlier[own];
      reference = reference < 0 || known.empty() ? -1 : known[draw(random, 0, known.size() - 1)];
    };
    choose(dag.parent[row]);
    choose(dag.after[row]);
    dag.kept[row] = dag.parent[row] < 0 ? 0 : min_of(dag.kept[row], dag.prompt[dag.parent[row]]);
    for (i64 w = dag.waits_offsets[row]; w < dag.waits_offsets[row + 1]; ++w) {
      choose(dag.waits_rows[w]);
      if (dag.waits_rows[w] < 0) dag.waits_rows[w] = plain || i == 0 ? 0 : dag.order[0];
    }
    earlier[own].push_back(row);
  }
  if (plain) return dag;
  dag.order = topological_order(dag.turns);
  dag.turns.order = dag.order.data();
  return dag;
}

// Every row in one piece, at its place, with all that it depends on; every trajectory in one piece, and in its range.
void check_pieces(const Turns& turns, const Pieces& pieces) {
  std::vector<i64> piece_of(turns.rows, -1), owner(turns.trajectories, -1);
  const i64* order = pieces.ordered(turns).order;
  i64 place = 0;
  for (std::size_t i = 0; i < pieces.pieces.size(); ++i) {
    const Piece& piece = pieces.pieces[i];
    CHECK_EQUAL(piece.begin, place);
    for (; place < piece.end; ++place) {
      const i64 row = order != nullptr ? order[place] : place, own = turns.trajectory[row];
      piece_of[row] = i;
      CHECK_EQUAL(owner[own] < 0 || owner[own] == static_cast<i64>(i), true);
      CHECK_EQUAL(pieces.mixed || (own >= piece.first_trajectory && own < piece.end_trajectory), true);
      owner[own] = i;
      for (const i64 needed : {turns.parent[row], turns.after[row]}) {
        CHECK_EQUAL(needed < 0 || piece_of[needed] == piece_of[row], true);
      }
      for (i64 w = turns.waits_offsets ? turns.waits_offsets[row] : 0,
               end = turns.waits_offsets ? turns.waits_offsets[row + 1] : 0;
           w < end; ++w) {
        CHECK_EQUAL(piece_of[turns.waits_rows[w]], piece_of[row]);
      }
    }
  }
  CHECK_EQUAL(place, turns.rows);
}

void pieces_are_priced_as_the_whole() {
  Random random(4);
  i64 most_pieces = 0, ranges = 0;
  for (int round = 0; round < 2000; ++round) {
    Rates rates = draw_rates(random);
    std::vector<i64> step(rates.chunk + 1);
    for (i64& time : step) time = draw(random, 0, i64{1} << 36);
    const i64 rows = draw(random, 1, 80), trajectories = draw(random, 1, rows);
    const Dag dag = draw_families(random, rows, trajectories, draw(random, 0, 1), draw(random, 0, 1));
    const Pieces apart = cut(dag.turns, draw(random, 1, 12), 3);
    check_pieces(dag.turns, apart);
    most_pieces = max_of(most_pieces, apart.pieces.size());
    ranges += apart.order.empty() && !apart.mixed && apart.pieces.size() > 1;

    std::vector<Totals> totals[2];
    std::vector<double> held[2];
    std::vector<i64> finish[2];
    const Pieces together = whole(dag.turns);
    for (int way = 0; way < 2; ++way) {
      const Pieces& pieces = way == 0 ? together : apart;
      totals[way].resize(trajectories);
      held[way].assign(trajectories, 0.0);
      finish[way].resize(rows);
      run_on_threads(3, pieces.pieces.size(), [&](i64 i) {
        estimate<kNever, false, false>(rates, step.data(), pieces.ordered(dag.turns), pieces.pieces[i],
                                       finish[way].data(), totals[way].data(), held[way].data(), {});
      });
    }
    CHECK_EQUAL(finish[0] == finish[1] && held[0] == held[1], true);
    CHECK_EQUAL(std::memcmp(totals[0].data(), totals[1].data(), sizeof(Totals) * trajectories), 0);
  }
  CHECK_EQUAL(most_pieces > 8 && ranges > 100, true);
}

void exceptions_come_out_of_threads() {
  for (const i64 threads : {1, 4}) {
    bool thrown = false;
    try {
      run_on_threads(threads, 100, [](i64 i) {
        if (i == 7) throw std::bad_alloc();
      });
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    CHECK_EQUAL(thrown, true);
  }
}

void cycles_are_left_out_of_the_order() {
  Random random(3);
  Dag dag = draw_dag(random, 20, 2, false);
  dag.parent[dag.order[0]] = dag.order[19];
  dag.parent[dag.order[19]] = dag.order[0];
  CHECK_EQUAL(topological_order(dag.turns).size() < 20, true);
}

}  // namespace

int main() {
  closed_forms_equal_stepping();
  dags_are_priced_consistently<kNever, false>();
  dags_are_priced_consistently<kNever, true>();
  dags_are_priced_consistently<kAlways, false>();
  dags_are_priced_consistently<kAlways, true>();
  dags_are_priced_consistently<kTtl, false>();
  dags_are_priced_consistently<kTtl, true>();
  dags_are_priced_consistently<kLru, false>();
  dags_are_priced_consistently<kLru, true>();
  dags_are_priced_consistently<kNoCache, false>();
  dags_are_priced_consistently<kNoCache, true>();
  pieces_are_priced_as_the_whole();
  exceptions_come_out_of_threads();
  cycles_are_left_out_of_the_order();
  std::puts("C++ tests passed");
}
