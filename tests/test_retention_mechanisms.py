"""What plans ask of the engine, on every stepper: blocks held, another order of eviction, a host tier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_cases import SETTINGS, turns

from kvsim.backends.contexts import contexts_of
from kvsim.backends.engine_kernels import END, FOREVER, NO_PLAN, ON_EVICTION, SWAP, WRITE_THROUGH, Plan
from kvsim.backends.stepping import STEPPERS, Stepper, stepper

# A context of ten full blocks, two others of five, and a turn that extends the first.
PRESSURE: list[dict[str, Any]] = [
    {"prompt_tokens": 41},
    {"prompt_tokens": 21},
    {"prompt_tokens": 21},
    {"parent": 0, "kept_tokens": 41, "prompt_tokens": 45},
]


@pytest.fixture(params=sorted(STEPPERS))
def engine(request):
    def make(rows: list[dict[str, Any]], plan: Plan, **changes: int) -> Stepper:
        settings = SETTINGS._replace(**changes)
        return stepper(request.param, settings, contexts_of(turns(rows), settings.block_size), plan)

    return make


def column(*values: int) -> Any:
    return np.array(values, np.int64)


def held(*nanoseconds: int) -> Plan:
    return NO_PLAN._replace(hold_ns=column(*nanoseconds))


def run(driven: Stepper, row: int, now_ns: int = 0) -> None:
    """Serves a row to its end, all at one instant but for loads."""
    driven.arrive(row, now_ns)
    while True:
        if not driven.schedule(now_ns).work:
            now_ns = driven.next_event_ns()
        if driven.update(now_ns) == [row]:
            return


@pytest.mark.parametrize(("plan", "cached"), [(NO_PLAN, 24), (held(FOREVER, 0, 0, 0), 40)])
def test_a_pin_keeps_through_pressure_that_evicts(engine, plan, cached):
    driven = engine(PRESSURE, plan, num_gpu_blocks=18)
    for row in (0, 1, 2, 3):
        run(driven, row)
    assert driven.cached_tokens(3) == cached


def test_what_is_held_is_free_after_its_time(engine):
    driven = engine(PRESSURE, held(100, 0, 0, 0), num_gpu_blocks=18)
    run(driven, 0)
    assert driven.schedule(99).free_blocks == 6
    assert driven.next_event_ns() == 100
    driven.update()
    assert driven.schedule(100).free_blocks == 17
    assert driven.next_event_ns() == END


def test_a_turn_that_comes_in_time_finds_what_is_held_even_if_it_waits(engine):
    rows = [*PRESSURE, {"prompt_tokens": 21}]
    for due_ns, free_blocks in ((100, 0), (101, 11)):
        driven = engine(rows, held(100, 0, 0, 0, 0), num_gpu_blocks=18, max_num_seqs=1)
        run(driven, 0)
        driven.arrive(4, 90)
        driven.arrive(3, due_ns)
        step = driven.schedule(200)
        assert step.work == [(4, 0, 21)]
        assert step.free_blocks == free_blocks


def test_the_next_turn_takes_over_what_is_held(engine):
    driven = engine(PRESSURE, held(FOREVER, 0, 0, 0), num_gpu_blocks=18)
    run(driven, 0)
    driven.arrive(3)
    step = driven.schedule()
    assert step.work == [(3, 40, 5)]
    assert step.free_blocks == 17 - 12


def test_pins_yield_where_nothing_else_can_run_the_first_to_end_first(engine):
    rows = [{"prompt_tokens": 21}, {"prompt_tokens": 21}, {"prompt_tokens": 37}]
    driven = engine(rows, held(500, 400, 0), num_gpu_blocks=18)
    run(driven, 0)
    run(driven, 1)
    driven.arrive(2)
    step = driven.schedule()
    assert step.work == [(2, 0, 37)]  # ten blocks: the second pin gave way
    assert step.free_blocks == 17 - 6 - 10
    assert driven.next_event_ns() == 500


def test_pins_yield_before_anyone_is_preempted(engine):
    rows = [{"prompt_tokens": 21}, {"prompt_tokens": 40, "output_tokens": 20}]
    driven = engine(rows, held(FOREVER, 0), num_gpu_blocks=18)
    run(driven, 0)
    driven.arrive(1)
    step = driven.schedule()
    while not driven.update():
        free_blocks = step.free_blocks
        step = driven.schedule()
        assert not step.preempted
        if step.free_blocks > free_blocks:
            assert free_blocks == 0
    assert driven.schedule().free_blocks == 17


def test_while_something_runs_the_queue_waits_for_pins(engine):
    rows = [{"prompt_tokens": 21}, {"prompt_tokens": 21, "output_tokens": 2}, {"prompt_tokens": 37}]
    driven = engine(rows, held(FOREVER, 0, 0), num_gpu_blocks=18)
    run(driven, 0)
    driven.arrive(1)
    driven.arrive(2)
    step = driven.schedule()
    assert (step.work, step.waiting) == ([(1, 0, 21)], 1)


@pytest.mark.parametrize(
    ("next_use_ns", "kept"),
    [((10, 20), (20, 4)), ((20, 10), (4, 20)), ((END, 10), (4, 20)), ((10, END), (20, 4)), ((10, 10), (4, 20))],
)
def test_what_is_used_again_last_goes_first_and_of_equals_the_older(engine, next_use_ns, kept):
    first, second = ({"parent": row, "kept_tokens": 22, "prompt_tokens": 23} for row in (0, 1))
    rows = [{"prompt_tokens": 21}, {"prompt_tokens": 21}, {"prompt_tokens": 41}, first, second]
    plan = NO_PLAN._replace(next_use_ns=column(*next_use_ns, END, END, END))
    for row, cached in ((3, kept[0]), (4, kept[1])):
        driven = engine(rows, plan, num_gpu_blocks=18)
        for before in (0, 1, 2):
            run(driven, before)
        run(driven, row)
        assert driven.cached_tokens(row) == cached


def test_shared_blocks_are_kept_longest(engine):
    prefixed = {"prefix": 0, "kept_tokens": 12, "prompt_tokens": 21}
    rows = [prefixed, {"prompt_tokens": 21}, {"prompt_tokens": 49}, prefixed]
    for plan, cached in ((NO_PLAN, 0), (NO_PLAN._replace(next_use_ns=column(END, 0, 0, 0)), 12)):
        driven = engine(rows, plan, num_gpu_blocks=18)  # the third turn needs six blocks of the first two
        for row in range(4):
            run(driven, row)
        assert driven.cached_tokens(3) == cached


@pytest.mark.parametrize("host", [WRITE_THROUGH, ON_EVICTION])
def test_what_was_evicted_is_loaded(engine, host):
    plan = NO_PLAN._replace(host=host, host_blocks=50, load_ns=7)
    driven = engine(PRESSURE, plan, num_gpu_blocks=18)
    for row in (0, 1, 2):
        run(driven, row)
    driven.arrive(3)
    step = driven.schedule(1000)
    assert (step.work, step.running) == ([], 1)
    assert driven.next_event_ns() == 1000 + 4 * 7
    driven.update()
    assert driven.schedule(1027).work == []
    driven.update()
    assert driven.schedule(1028).work == [(3, 40, 5)]
    assert (driven.cached_tokens(3), driven.loaded_tokens(3)) == (40, 16)


def test_loads_go_over_the_link_one_after_the_other(engine):
    rows = [*PRESSURE, {"parent": 1, "kept_tokens": 22, "prompt_tokens": 23}]
    plan = NO_PLAN._replace(host=WRITE_THROUGH, host_blocks=50, load_ns=100)
    driven = engine([*rows, {"prompt_tokens": 65}], plan, num_gpu_blocks=19)
    for row in (0, 1, 2, 5):
        run(driven, row)
    driven.arrive(3)
    driven.arrive(4)
    assert driven.schedule(0).work == []
    loaded = [driven.loaded_tokens(row) // 4 for row in (3, 4)]
    assert loaded == [10, 5]
    assert driven.next_event_ns() == 1000
    driven.update()
    assert driven.schedule(1000).work == [(3, 40, 5)]
    driven.update(1000)
    assert driven.next_event_ns() == 1500


def test_a_small_host_tier_has_the_beginning_of_what_was_stored_last(engine):
    plan = NO_PLAN._replace(host=WRITE_THROUGH, host_blocks=7, load_ns=1)
    driven = engine([PRESSURE[0], PRESSURE[3], *[{"prompt_tokens": 3}] * 17], plan, num_gpu_blocks=18, max_num_seqs=17)
    run(driven, 0)
    for row in range(2, 19):
        driven.arrive(row)
    assert driven.schedule().evicted == 10
    driven.update()  # none of them has a full block to store
    run(driven, 1)
    assert (driven.cached_tokens(1), driven.loaded_tokens(1)) == (28, 28)


@pytest.mark.parametrize(
    ("pause_us", "recompute_us", "swap_us", "outcome"),
    [(1, 9, 9, "held"), (9, 1, 9, "discarded"), (9, 9, 1, "swapped"), (2, 2, 1, "held"), (5, 2, 1, "swapped")],
)
def test_least_waste_wins(engine, pause_us, recompute_us, swap_us, outcome):
    costs = {"pause_us": pause_us, "recompute_us": recompute_us, "swap_us": swap_us}
    plan = held(FOREVER, 0, 0, 0)._replace(host=SWAP, host_blocks=50, load_ns=7)
    plan = plan._replace(**{name: column(value, 0, 0, 0) for name, value in costs.items()})
    driven = engine(PRESSURE, plan, num_gpu_blocks=18)
    for row in (0, 1, 2, 3):
        run(driven, row)
    found = (driven.cached_tokens(3), driven.loaded_tokens(3))
    assert found == {"held": (40, 0), "discarded": (24, 0), "swapped": (40, 16)}[outcome]
