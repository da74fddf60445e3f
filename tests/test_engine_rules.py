"""Single rules of vLLM's scheduler and pool, on every stepper."""

from __future__ import annotations

import pytest
from engine_cases import SETTINGS, turns

from kvsim.backends.contexts import contexts_of
from kvsim.backends.stepping import STEPPERS, Stepper, stepper
from kvsim.errors import InputError, UnknownNameError
from kvsim.trajectory import Batch


@pytest.fixture(params=sorted(STEPPERS))
def engine(request):
    def make(batch: Batch, **changes: int) -> Stepper:
        settings = SETTINGS._replace(**changes)
        return stepper(request.param, settings, contexts_of(batch, settings.block_size))

    return make


def run(engine: Stepper, *rows: int) -> int:
    """Serves rows to their end; returns the steps it took."""
    for row in rows:
        engine.arrive(row)
    left, steps = len(rows), 0
    while left:
        engine.schedule()
        left -= len(engine.update())
        steps += 1
    return steps


def test_one_token_is_always_computed(engine):
    same = {"prefix": 0, "kept_tokens": 12, "prompt_tokens": 12}
    driven = engine(turns([same, same]))
    run(driven, 0)
    run(driven, 1)
    assert driven.cached_tokens(1) == 8  # of three full blocks, the last is computed again


def test_the_last_sampled_token_is_not_cached(engine):
    batch = turns(
        [
            {"prompt_tokens": 10, "output_tokens": 6},  # 16 tokens, 15 of them computed
            {"parent": 0, "kept_tokens": 16, "prompt_tokens": 21},
        ]
    )
    driven = engine(batch)
    run(driven, 0)
    run(driven, 1)
    assert driven.cached_tokens(1) == 12


def test_a_request_admitted_later_in_a_step_hits_what_an_earlier_one_computes_in_it(engine):
    same = {"prefix": 0, "kept_tokens": 20, "prompt_tokens": 22}
    driven = engine(turns([same, same]))
    driven.arrive(0)
    driven.arrive(1)
    step = driven.schedule()
    assert step.work == [(0, 0, 22), (1, 20, 2)]
    assert step.free_blocks == 100 - 7


def test_an_evicted_prefix_is_cut_from_its_end(engine):
    batch = turns(
        [
            {"prompt_tokens": 41},  # leaves ten blocks
            {"prompt_tokens": 21},  # takes six, of which four had never been used
            {"parent": 0, "kept_tokens": 41, "prompt_tokens": 45},
        ]
    )
    driven = engine(batch, num_gpu_blocks=16)
    run(driven, 0)
    driven.arrive(1)
    assert driven.schedule().evicted == 1  # four unused, one without a key, one evicted
    driven.update()
    run(driven, 2)
    assert driven.cached_tokens(2) == 36


def test_the_last_of_running_is_preempted_and_comes_back_first(engine):
    long = {"prompt_tokens": 16, "output_tokens": 30}
    driven = engine(turns([long, long, long]), num_gpu_blocks=15)
    for row in range(3):
        driven.arrive(row)
    step = driven.schedule()
    while not step.preempted:
        driven.update()
        step = driven.schedule()
    assert step.preempted == [2]
    assert step.waiting == 1
    assert [row for row, _, _ in step.work] == [0, 1]


def test_nobody_is_admitted_in_a_step_that_preempts(engine):
    rows = [{"prompt_tokens": 16, "output_tokens": 30}] * 2 + [{"prompt_tokens": 2}]
    driven = engine(turns(rows), num_gpu_blocks=11)
    driven.arrive(0)
    driven.arrive(1)
    step = driven.schedule()
    while True:
        driven.update()
        if step.free_blocks == 0 and not step.preempted:
            driven.arrive(2)
            step = driven.schedule()
            break
        step = driven.schedule()
    while not step.preempted:
        driven.update()
        step = driven.schedule()
    assert all(row != 2 for row, _, _ in step.work)


def test_the_head_of_the_queue_holds_up_the_rest(engine):
    rows = [{"prompt_tokens": 30, "output_tokens": 9}, {"prompt_tokens": 90}, {"prompt_tokens": 3}]
    driven = engine(turns(rows), num_gpu_blocks=25)
    for row in range(3):
        driven.arrive(row)
    step = driven.schedule()
    assert step.work == [(0, 0, 30)]
    assert step.waiting == 2


def test_without_the_gate_a_prompt_may_start_that_does_not_fit_yet(engine):
    rows = [{"prompt_tokens": 30, "output_tokens": 9}, {"prompt_tokens": 90}]
    driven = engine(turns(rows), num_gpu_blocks=25, scheduler_reserve_full_isl=0)
    driven.arrive(0)
    driven.arrive(1)
    assert driven.schedule().work == [(0, 0, 30), (1, 0, 34)]


def test_a_lone_request_ignores_the_long_prefill_threshold(engine):
    batch = turns([{"prompt_tokens": 60}, {"prompt_tokens": 60}])
    driven = engine(batch, long_prefill_token_threshold=10)
    driven.arrive(0)
    assert driven.schedule().work == [(0, 0, 60)]
    driven = engine(batch, long_prefill_token_threshold=10)
    driven.arrive(0)
    driven.arrive(1)
    assert driven.schedule().work == [(0, 0, 10), (1, 0, 10)]


def test_the_watermark_counts_only_while_something_runs(engine):
    batch = turns([{"prompt_tokens": 40, "output_tokens": 3}, {"prompt_tokens": 40}])
    driven = engine(batch, num_gpu_blocks=25, watermark_blocks=5, max_num_batched_tokens=128)
    driven.arrive(0)
    driven.arrive(1)
    assert driven.schedule().work == [(0, 0, 40)]


def test_a_victim_by_priority_leaves_the_step_and_returns_its_tokens(engine):
    urgent, lazy = ({"prompt_tokens": 16, "output_tokens": 30, "priority": rank} for rank in (0, 1))
    driven = engine(turns([lazy, urgent]), num_gpu_blocks=10, priority=1)
    driven.arrive(0)
    driven.schedule()
    driven.update()
    driven.arrive(1)
    step = driven.schedule()
    while not step.preempted:
        driven.update()
        step = driven.schedule()
    assert step.preempted == [0]
    assert [row for row, _, _ in step.work] == [1]


def test_async_a_step_is_scheduled_before_the_token_it_goes_on_from_is_known(engine):
    driven = engine(turns([{"prompt_tokens": 10, "output_tokens": 3}]), async_scheduling=1)
    driven.arrive(0)
    assert driven.schedule().work == [(0, 0, 10)]
    assert driven.schedule().work == [(0, 10, 1)]
    assert driven.update() == []
    assert driven.schedule().work == [(0, 11, 1)]
    assert driven.update() == []
    assert driven.schedule().work == []  # its last token is in flight
    assert driven.update() == [0]
    assert driven.update() == []


def test_async_a_finished_request_gives_its_blocks_back_one_step_later(engine):
    batch = turns([{"prompt_tokens": 39, "output_tokens": 2}, {"prompt_tokens": 39}])

    def steps_until_the_second_runs(driven: Stepper, ahead: int) -> int:
        driven.arrive(0)
        driven.arrive(1)
        for _ in range(ahead):
            driven.schedule()
        steps = ahead + 1
        while all(row != 1 for row, _, _ in driven.schedule().work):
            driven.update()
            steps += 1
        return steps

    assert steps_until_the_second_runs(engine(batch, num_gpu_blocks=15), 0) == 3
    assert steps_until_the_second_runs(engine(batch, num_gpu_blocks=15, async_scheduling=1), 1) == 4


def test_async_a_block_ends_in_an_unknown_token_until_the_step_before_has_ended(engine):
    own = {"prompt_tokens": 10, "output_tokens": 9}
    batch = turns([own, {"parent": 0, "after": -1, "kept_tokens": 19, "prompt_tokens": 21}])

    def cached_beside_the_twelfth_token(ahead: int) -> int:
        driven = engine(batch, async_scheduling=ahead)
        driven.arrive(0)
        for _ in range(ahead):
            driven.schedule()
        while driven.schedule().work != [(0, 10, 1)]:
            driven.update()
        driven.update()
        driven.arrive(1)
        assert driven.schedule().work[0] == (0, 11, 1)
        return driven.cached_tokens(1)

    assert cached_beside_the_twelfth_token(0) == 12
    assert cached_beside_the_twelfth_token(1) == 8


def test_async_a_preempted_request_gets_the_token_in_flight_where_it_waits(engine):
    long = {"prompt_tokens": 16, "output_tokens": 12}
    driven = engine(turns([long, long]), num_gpu_blocks=11, async_scheduling=1)
    driven.arrive(0)
    driven.arrive(1)
    driven.schedule()
    step = driven.schedule()
    while not step.preempted:
        last = step.work
        assert driven.update() == []
        step = driven.schedule()
    assert step.preempted == [1]
    assert step.work == [(0, last[0][1] + 1, 1)]
    computed = last[1][1] + 1  # of the victim when the step in flight ends
    while all(row != 1 for row, _, _ in step.work):
        driven.update()
        step = driven.schedule()
    row, before, tokens = step.work[-1]
    assert (row, before + tokens) == (1, computed + 1)


def test_async_a_request_may_finish_where_it_waits(engine):
    rows = [{"prompt_tokens": 15, "output_tokens": 30}, {"prompt_tokens": 16, "output_tokens": 2}]
    driven = engine(turns(rows), num_gpu_blocks=10, async_scheduling=1)
    driven.arrive(0)
    driven.arrive(1)
    assert driven.schedule().free_blocks == 1
    assert driven.schedule().free_blocks == 0
    driven.update()
    step = driven.schedule()
    assert step.preempted == [1]
    assert step.waiting == 1
    assert driven.update() == [1]
    assert driven.schedule().waiting == 0


def test_more_steps_than_may_be_in_flight_are_an_error(engine):
    for ahead in (0, 1):
        driven = engine(turns([{"prompt_tokens": 10, "output_tokens": 30}]), async_scheduling=ahead)
        driven.arrive(0)
        for _ in range(ahead + 1):
            driven.schedule()
        with pytest.raises(InputError, match="async_scheduling"):
            driven.schedule()


def test_unknown_steppers_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="reference"):
        stepper("referense", SETTINGS, contexts_of(turns([{}]), 4))
