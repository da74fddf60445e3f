"""Speed of `simulate`: the C++ engine and Numba's, at rest and thrashing, beside preparing the batch for them.

pytest bench/bench_simulate.py --benchmark-json=simulate.json && python bench/ratios.py simulate.json
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from agent_sessions import BLOCK_SIZE, CONCURRENCIES, Sessions, simulate

from kvsim import Batch
from kvsim.backends.contexts import contexts_of
from kvsim.backends.workload import closed_starts, workload_of

ROUNDS = {"rounds": 7, "iterations": 1, "warmup_rounds": 1}


@pytest.fixture(scope="module")
def sessions() -> Batch:
    """1,000 sessions of 21 turns."""
    return Sessions.draw(1000).batch()


@pytest.mark.benchmark(timer=time.process_time)
def test_preparation(benchmark, sessions):
    """The columns that an engine reads, from those of a batch that nothing is known of yet."""
    benchmark.extra_info |= {"turns": sessions.turns, "role": "preparation"}
    starts, none = closed_starts(len(sessions), 16), np.zeros(sessions.turns, np.int64)

    def prepare(batch):
        return contexts_of(batch, BLOCK_SIZE), workload_of(batch, starts, none)

    benchmark.pedantic(prepare, setup=lambda: ((Sessions.draw(1000).batch(),), {}), **ROUNDS)


@pytest.mark.parametrize("concurrency", CONCURRENCIES)
@pytest.mark.parametrize("backend", ["native", "numba"])
@pytest.mark.benchmark(timer=time.process_time)
def test_closed_loop(benchmark, sessions, backend, concurrency):
    """The whole call, on a batch that was prepared before."""
    benchmark.extra_info |= {"turns": sessions.turns, "role": f"closed:{concurrency} {backend}"}
    rounds = ROUNDS if backend == "native" else ROUNDS | {"rounds": 1}
    benchmark.pedantic(lambda: simulate(sessions, concurrency, backend), **rounds)
