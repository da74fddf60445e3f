"""Threads change no bit, however a batch can be cut, and are used only where they are asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import CASES, all_rates, batches, linear, make_rates, step_table
from hypothesis import given, settings

import kvsim
from kvsim import _core
from kvsim.backends.interface import empty_columns
from kvsim.backends.native import NativeBackend
from kvsim.cores import cores, threads_of
from kvsim.errors import InputError
from kvsim.trajectory import Batch

EAGER = NativeBackend(_core, rows_per_thread=1)
"""Takes as many threads as it is given, however few rows there are."""


def assert_threads_change_nothing(batch: Batch, rates, threads: int) -> None:
    prepared = EAGER.prepare(rates, step_table(rates))
    one, more = empty_columns(batch.turns), empty_columns(batch.turns)
    alone = EAGER.estimate(prepared, EAGER.pack(batch), one)
    packed = EAGER.pack(batch)
    for columns in (None, more):  # the second time with pieces that are known
        shared = EAGER.estimate(prepared, packed, columns, threads)
        assert shared.totals.tobytes() == alone.totals.tobytes()
        assert shared.held_block_ns.tobytes() == alone.held_block_ns.tobytes()
    for name, column in more._asdict().items():
        assert column.tobytes() == getattr(one, name).tobytes(), name


def interleaved(batch: Batch, seed: int) -> Batch:
    """The same turns, rows shuffled."""
    row_at = np.random.default_rng(seed).permutation(batch.turns)
    place = np.empty(batch.turns + 1, np.int64)
    place[row_at] = np.arange(batch.turns)
    place[-1] = -1
    plain = ("kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "arrival_ns", "trajectory")
    return Batch.from_columns(
        parent=place[batch.parent[row_at]], **{name: getattr(batch, name)[row_at] for name in plain}
    )


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("batch", [batch for _, batch in CASES], ids=[name for name, _ in CASES])
def test_cases_come_out_alike(batch, threads):
    assert_threads_change_nothing(batch, make_rates(), threads)


@pytest.mark.parametrize("batch", [linear(7, 400), interleaved(linear(7, 400), 1)], ids=["in order", "interleaved"])
def test_many_trajectories_come_out_alike(batch):
    assert_threads_change_nothing(batch, make_rates(), 4)


@settings(max_examples=200, deadline=None)
@given(batch=batches(), rates=all_rates())
def test_whatever_is_drawn_comes_out_alike(batch, rates):
    assert_threads_change_nothing(batch, rates, 3)


def test_a_batch_is_cut_once_by_whoever_comes_first():
    rates, batch = make_rates(), linear(12, 500)
    prepared = EAGER.prepare(rates, step_table(rates))
    expected = EAGER.estimate(prepared, EAGER.pack(batch), None).totals.tobytes()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            packed = EAGER.pack(batch)
            jobs = [pool.submit(EAGER.estimate, prepared, packed, None, 2) for _ in range(4)]
            assert {job.result().totals.tobytes() for job in jobs} == {expected}


def test_estimates_and_cost_terms_take_threads():
    batch = linear(16, 5_000)  # 80,000 turns: enough for two threads
    where = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}
    load = kvsim.Load(kv="ttl:5")
    one = kvsim.estimate(batch, **where, load=load)
    for threads in (2, "auto"):
        more = kvsim.estimate(batch, **where, load=load, threads=threads)
        np.testing.assert_array_equal(more.gpu_s, one.gpu_s)
        np.testing.assert_array_equal(more.turns.e2e_s, one.turns.e2e_s)
        np.testing.assert_array_equal(more.interval.high.usd, one.interval.high.usd)
        terms = [kvsim.CostTerm(**where, load=load, threads=number)(batch) for number in (1, threads)]
        np.testing.assert_array_equal(*terms)


@pytest.mark.parametrize("name", ["numba", "reference"])
def test_other_backends_take_the_argument_too(name):
    batch = linear(5, 3)
    asked = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm", "backend": name}
    np.testing.assert_array_equal(kvsim.estimate(batch, **asked, threads=2).gpu_s, kvsim.estimate(batch, **asked).gpu_s)


def test_a_number_of_threads():
    assert threads_of("auto") == cores() >= 1
    assert threads_of(3) == 3
    for wrong in (0, -1, 1.5, True, "many"):
        with pytest.raises(InputError, match="'threads'"):
            threads_of(wrong)
    with pytest.raises(InputError, match="'threads'"):
        kvsim.estimate(linear(3), model="Qwen/Qwen3-8B", gpu="h100-sxm", threads=0)
