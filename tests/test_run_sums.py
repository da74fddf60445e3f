"""What runs come to: both texts give the same numbers, and those are what the turns add up to."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import numpy as np
import pytest
from cases import linear
from engine_cases import draw_batch
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from kvsim import simulated
from kvsim.backends.engine_kernels import END, Served
from kvsim.backends.interface import empty_columns
from kvsim.backends.run_sums import SPREAD, held_block_ns, sums_of

SHARES = (0.0, 0.5, 0.9, 0.99, 1.0)


def draw_served(random: Random, rows: int, replicas: int) -> Served:
    """Any turns that an engine could have served, some of them refused; the longest times need more than 32 bits."""
    whole = np.array([random.random() < random.choice([0.5, 0.95, 1.0]) for _ in range(rows)], bool)
    scale = random.choice([3, 10**6, 10**12, 10**17])
    times = np.sort([[random.randrange(min(scale, 10**12)) for _ in range(4)] for _ in range(rows)], axis=1)
    times = times.reshape(rows, 4) + np.array([random.randrange(scale) for _ in range(rows)], np.int64)[:, None]
    counts = np.array([[random.randrange(500) for _ in range(5)] for _ in range(rows)], np.int64).reshape(rows, 5)

    def column(values):
        return np.where(whole, values, END)

    release_ns, scheduled_ns, first_token_ns, finish_ns = times.T
    return Served(
        release_ns=release_ns.copy(),
        scheduled_ns=column(scheduled_ns),
        first_token_ns=column(first_token_ns),
        finish_ns=np.where(whole, finish_ns, release_ns),
        recompute_ns=column((first_token_ns - scheduled_ns) // 2),
        gpu_ns=np.where(whole, counts[:, 0], 0),
        held_block_ns=np.where(whole, counts[:, 1] * min(scale, 10**16), 0),
        cached_tokens=column(counts[:, 2]),
        loaded_tokens=column(counts[:, 2] // 3),
        hittable_tokens=column(counts[:, 3]),
        preemptions=column(counts[:, 4]),
        replica=column([random.randrange(replicas) for _ in range(rows)]),
    )


def held_exactly(batch, served, size, windows):
    """Blocks x nanoseconds of each turn with what waited in the cache for it, in integers of any length."""
    found = []
    for row in range(batch.turns):
        held, parent = int(served.held_block_ns[row]), int(batch.parent[row])
        if parent >= 0 and served.replica[row] >= 0:
            blocks = int(served.cached_tokens[row] - served.loaded_tokens[row]) // size
            reach = sum(min(blocks, -(-(window - 1) // size)) if window else blocks for window in windows)
            held += reach * max(int(served.scheduled_ns[row]) - int(served.finish_ns[parent]), 0)
        found.append(held)
    return found


def apart(rows: int) -> kvsim.Batch:
    """So many trajectories of one turn."""
    zeros = np.zeros(rows, np.int64)
    return kvsim.Batch.from_columns(
        parent=zeros - 1,
        kept_tokens=zeros,
        prompt_tokens=zeros + 9,
        output_tokens=zeros + 1,
        pause_ns=zeros,
        arrival_ns=zeros,
        trajectory=np.arange(rows),
    )


@given(random=st.randoms(use_true_random=False))
def test_both_texts_give_the_same(random):
    size, replicas = random.choice([4, 16]), random.choice([1, 1, 4])
    batch, windows = draw_batch(random, size), random.choice([(0,), (24, 0), (7, 7, 0)])
    served = draw_served(random, batch.turns, replicas)
    text, core = (
        sums_of(batch, served, replicas, size, windows, SHARES, where=where) for where in ("reference", "native")
    )
    for name, first, second in zip(text.trajectories._fields, text.trajectories, core.trajectories, strict=True):
        np.testing.assert_array_equal(first, second, name)
    assert text[1:] == core[1:]
    whole = text.trajectories.refused == 0
    held = held_block_ns(batch, served, size, windows)
    np.testing.assert_allclose(held, [float(value) for value in held_exactly(batch, served, size, windows)], rtol=0)
    by_trajectory = [0] * len(batch)
    for owner, value in zip(batch.trajectory.tolist(), held_exactly(batch, served, size, windows), strict=True):
        by_trajectory[owner] += value
    assert text.trajectories.held_block_ns[whole].tolist() == [
        float(by_trajectory[owner]) for owner in np.flatnonzero(whole)
    ]
    assert text.whole["held_block_ns"] == sum(by_trajectory[owner] for owner in np.flatnonzero(whole))
    assert text.whole["model_ns"] == sum(text.trajectories.model_ns[whole].tolist())
    e2e_ns = (served.finish_ns - served.release_ns)[whole[batch.trajectory]].tolist()
    assert text.spreads["e2e"][:2] == (len(e2e_ns), sum(e2e_ns))
    if e2e_ns:
        assert text.spreads["e2e"].neighbours_ns[0][0] == min(e2e_ns)
        assert text.spreads["e2e"].neighbours_ns[-1][0] == max(e2e_ns)


@pytest.mark.parametrize("scale", [1, 10**6, 1 << 61])
def test_the_most_turns_at_once_are_the_same_of_many(scale):
    """Of so many that the core sorts them by digits."""
    random, rows = np.random.default_rng(7), 3000
    batch = apart(rows)
    begun, ended = np.sort(random.integers(0, scale, (2, rows)), axis=0)
    none = np.zeros(rows, np.int64)
    served = Served(*[none] * 12)._replace(scheduled_ns=begun, first_token_ns=begun, finish_ns=ended)
    text, core = (sums_of(batch, served, 1, 16, (0,), SHARES, where=where) for where in ("reference", "native"))
    assert text.replicas == core.replicas
    assert text.spreads == core.spreads


@pytest.mark.parametrize("where", ["reference", "native"])
def test_sums_that_do_not_fit_64_bits_are_exact(where):
    rows = 64
    batch = apart(rows)
    late, none = np.full(rows, (1 << 61) + 1), np.zeros(rows, np.int64)
    served = Served(*[none] * 12)._replace(scheduled_ns=late, first_token_ns=late, finish_ns=late)
    sums = sums_of(batch, served, 1, 16, (0,), (0.5,), where=where)
    assert sums.whole["model_ns"] == rows * ((1 << 61) + 1)
    assert [sums.spreads[name].total_ns for name in SPREAD] == [rows * ((1 << 61) + 1)] * 3 + [
        0,
        sums.whole["model_ns"],
    ]


def test_nothing_comes_to_nothing():
    batch = kvsim.Batch.from_trajectories([])
    served = Served(*[np.zeros(0, np.int64)] * 12)
    for where in ("reference", "native"):
        sums = sums_of(batch, served, 2, 16, (0,), SHARES, where=where)
        assert sums.replicas.turns == sums.replicas.peak_sequences == [0, 0]
        assert set(sums.whole.values()) == {0}
        assert all(spread == (0, 0, [(0, 0)] * len(SHARES)) for spread in sums.spreads.values())


def test_means_are_exact_sums_rounded_once():
    from kvsim.commands._run_totals import distributions

    run = kvsim.simulate(linear(8, 5), model="Qwen/Qwen3-8B", gpu="h100-sxm", arrivals="closed:7")
    exact = Fraction(int((run.served.finish_ns - run.served.release_ns).sum()), 40 * 10**9)
    assert distributions(run)["e2e_s"]["mean"] == float(exact)


def test_a_context_kept_for_weeks_is_counted_in_full():
    """Blocks x nanoseconds of a long pause do not fit 64 bits."""
    pause_ns = 40 * 86_400 * 10**9
    batch = kvsim.Batch.from_columns(
        parent=[-1, 0],
        kept_tokens=[0, 120_000],
        prompt_tokens=[120_000, 120_100],
        output_tokens=[16, 16],
        pause_ns=[0, pause_ns],
        arrival_ns=[0, 0],
        trajectory=[0, 0],
    )
    asked = {"model": "meta-llama/Llama-3.1-8B", "gpu": "h200-sxm"}
    expected = kvsim.estimate(batch, **asked).kv_byte_s
    run = kvsim.simulate(batch, arrivals="closed:1", **asked)
    np.testing.assert_allclose(run.kv_byte_s, expected, rtol=1e-6)
    np.testing.assert_allclose(run.turns["kv_byte_s"].sum(), expected[0], rtol=1e-6)
    np.testing.assert_allclose(run.totals["kv_byte_s"], expected[0], rtol=1e-6)
    assert run.idle_block_ns[1] == pytest.approx(7_500 * pause_ns, rel=1e-6)


@pytest.mark.parametrize("shares", [(0.9, 0.5), (0.5, 1.5), (-0.1,), (float("nan"),), (0.5, float("nan"), 0.9)])
def test_shares_that_do_not_rise_from_0_to_1_are_refused(shares):
    run = kvsim.simulate(linear(2, 2), model="Qwen/Qwen3-8B", gpu="h100-sxm")
    with pytest.raises(kvsim.InputError, match="shares") as caught:
        run.spreads(shares)
    assert caught.value.field == "shares"
    with pytest.raises(ValueError, match="shares"):
        sums_of(run.batch, run.served, 1, 16, (0,), shares, where="native")


def test_results_do_not_hand_out_what_they_add_up():
    run = kvsim.simulate(linear(2, 3), model="Qwen/Qwen3-8B", gpu="h100-sxm")
    before = run.totals, run.cached_tokens.tolist()
    for column in (run.cached_tokens, run.loaded_tokens, run.recomputed_tokens):
        column += 1
    assert (run.totals, run.cached_tokens.tolist()) == before
    assert not run.sums.trajectories.cached_tokens.flags.writeable


def test_spreads_are_known_with_their_shares(monkeypatch):
    """Another thread that asks while the sums are made anew gets those it asked for."""
    run = kvsim.simulate(linear(2, 3), model="Qwen/Qwen3-8B", gpu="h100-sxm")
    run.spreads((0.5,))
    seen = []

    def slow(*given, **how):
        monkeypatch.setattr(simulated, "sums_of", sums_of)
        seen.append(len(run.spreads((0.1, 0.9))["ttft"].neighbours_ns))
        return sums_of(*given, **how)

    monkeypatch.setattr(simulated, "sums_of", slow)
    assert len(run.spreads((0.1, 0.9))["ttft"].neighbours_ns) == 2
    assert seen == [2]


@pytest.mark.parametrize("rows", [1, 500, 504, 512, 1016])
def test_columns_start_in_different_lines_of_a_caches_sets(rows):
    run = kvsim.simulate(apart(rows), model="Qwen/Qwen3-8B", gpu="h100-sxm", arrivals="closed:9")
    priced = empty_columns(rows)
    for first, second in ((run.served.release_ns, run.served.scheduled_ns), (priced.release_ns, priced.fresh_ns)):
        assert (second.ctypes.data - first.ctypes.data) % 4096 == 64


@pytest.mark.parametrize(("hours", "fits"), [(40, True), (41, False)])
def test_turns_that_hold_more_than_the_engine_counts_are_refused(hours, fits):
    batch = kvsim.Batch.from_columns(
        parent=[-1],
        kept_tokens=[0],
        prompt_tokens=[10**6 - 9],
        output_tokens=[9],
        pause_ns=[0],
        arrival_ns=[0],
        trajectory=[0],
    )
    none, end_ns = np.zeros(1, np.int64), np.array([hours * 3600 * 10**9])
    served = Served(*[none] * 12)._replace(first_token_ns=end_ns, finish_ns=end_ns)
    for made in (
        lambda: sums_of(batch, served, 1, 16, (0,), where="native"),
        lambda: sums_of(batch, served, 1, 16, (0,), where="reference"),
        lambda: held_block_ns(batch, served, 16, (0,)),
    ):
        if fits:
            made()
            continue
        with pytest.raises(kvsim.InputError, match="row 0") as caught:
            made()
        assert caught.value.field == "block_size"
    queued = served._replace(release_ns=none, scheduled_ns=end_ns - 1)  # waiting holds nothing
    sums_of(batch, queued, 1, 16, (0,), where="native")
