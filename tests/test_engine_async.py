"""Asynchronous scheduling on the clock: a step is decided on when the one before it starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_cases import case, sessions, turns

from kvsim.backends.engine_kernels import Served
from kvsim.backends.serving import serve
from kvsim.trajectory import Batch


@pytest.fixture(params=["native", "numba", "reference"])
def served(request):
    def run(batch: Batch, **changes: Any) -> Served:
        return serve(request.param)(*case(batch, **changes))[0]

    return run


def test_an_arrival_during_a_step_runs_in_the_second_step_after_it(served):
    batch = turns([{"prompt_tokens": 20, "output_tokens": 2}, {"prompt_tokens": 5, "arrival_ns": 3}])
    for ahead in (0, 1):
        columns = served(batch, async_scheduling=ahead)
        ends_ns = [columns.first_token_ns[0], columns.finish_ns[0]]  # of the two steps of the first turn
        assert columns.release_ns[1] < ends_ns[0]
        assert columns.scheduled_ns[1] == ends_ns[ahead]


def test_an_arrival_at_an_idle_engine_runs_at_once(served):
    batch = turns([{"prompt_tokens": 20, "output_tokens": 2}, {"prompt_tokens": 5, "arrival_ns": 1_000_000}])
    columns = served(batch, async_scheduling=1)
    assert columns.finish_ns[0] < columns.release_ns[1] == columns.scheduled_ns[1]


def test_the_blocks_of_a_finished_turn_come_back_one_step_later(served):
    """Where another one runs on; alone, the step after the last one is empty and takes no time."""
    first = {"prompt_tokens": 40, "output_tokens": 3}
    other = {"prompt_tokens": 8, "output_tokens": 4}
    waiting = {"prompt_tokens": 40}
    beside, alone = turns([first, other, waiting]), turns([first, waiting])
    for ahead in (0, 1):
        columns = served(beside, num_gpu_blocks=20, async_scheduling=ahead)
        ends_ns = [columns.finish_ns[0], columns.finish_ns[1]]  # of two steps, one after the other
        assert columns.scheduled_ns[2] == ends_ns[ahead]
        columns = served(alone, num_gpu_blocks=20, async_scheduling=ahead)
        assert columns.scheduled_ns[1] == columns.finish_ns[0]


def test_without_pressure_the_same_tokens_are_computed_and_cached(served):
    batch = sessions(5, [(30, 9), (11, 5), (8, 20), (17, 3)])
    ahead, synchronous = (served(batch, num_gpu_blocks=1001, async_scheduling=on) for on in (1, 0))
    np.testing.assert_array_equal(ahead.cached_tokens, synchronous.cached_tokens)
    assert (ahead.finish_ns != synchronous.finish_ns).any()


def test_alone_only_blocks_are_taken_a_step_earlier(served):
    batch = sessions(1, [(30, 9), (11, 5), (8, 20), (17, 3)])
    ahead, synchronous = (served(batch, async_scheduling=on) for on in (1, 0))
    assert (ahead.held_block_ns > synchronous.held_block_ns).all()
    np.testing.assert_equal(ahead._replace(held_block_ns=synchronous.held_block_ns), synchronous)
