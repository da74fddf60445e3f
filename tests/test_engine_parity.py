"""The C++ engine, the Numba one and the readable text take the same decisions at the same nanoseconds."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from engine_cases import Case, any_case, cases, draw_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvsim.backends import engine_kernels
from kvsim.backends.engine_kernels import END, REPLICA_TOTALS, Served
from kvsim.backends.eviction_log import EvictionLog, Evictions
from kvsim.backends.serving import serve, timeline_of
from kvsim.backends.stepping import stepper

CASES = cases()


def served(backend: str, case: Case, log: EvictionLog | None = None) -> tuple[Served, dict[str, Any]]:
    """The columns of rows, and those of replicas."""
    columns, totals = serve(backend)(*case, log=log)
    return columns, dict(zip(REPLICA_TOTALS, totals.T, strict=True))


def with_timeline(case: Case, totals: dict[str, Any]) -> Case:
    """The same, its blocks counted in about seven bins."""
    end_ns = int(totals["end_ns"].max())
    return case._replace(timeline=timeline_of(case.fleet.replicas, end_ns // 7 + 1, end_ns))


def assert_same(case: Case, backend: str) -> tuple[Served, dict[str, Any]]:
    columns, totals = served("reference", case)
    first, second = with_timeline(case, totals), with_timeline(case, totals)
    log, other_log = EvictionLog(), EvictionLog()
    same, _ = served("reference", first, log)
    other, other_totals = served(backend, second)
    logged, logged_totals = served(backend, case, other_log)
    np.testing.assert_equal(other_totals, totals)
    np.testing.assert_equal(logged_totals, totals)
    np.testing.assert_equal(logged, other)  # writing evictions down changes nothing
    np.testing.assert_equal(other_log.evictions, log.evictions)
    assert_evicted(log.evictions, totals["evicted_blocks"])
    np.testing.assert_equal(second.timeline, first.timeline)
    for name in Served._fields:
        np.testing.assert_array_equal(getattr(other, name), getattr(columns, name), err_msg=name)
        np.testing.assert_array_equal(getattr(same, name), getattr(columns, name), err_msg=name)
    block_ns = first.timeline.partial + first.timeline.bin_ns * first.timeline.level.cumsum(axis=1)
    assert (block_ns >= 0).all()
    assert (block_ns.max(axis=1) <= first.timeline.bin_ns * totals["peak_blocks"]).all()
    if not len(case.plan.hold_ns):
        assert block_ns.sum() <= columns.held_block_ns.sum()  # less where requests hold the same block
    return columns, totals


def assert_evicted(log: Evictions, evicted_blocks: Any) -> None:
    """As many blocks as were counted; stretches in order that do not touch."""
    evicted = np.zeros_like(evicted_blocks)
    np.add.at(evicted, log.replica, log.blocks * log.copies)
    np.testing.assert_array_equal(evicted, evicted_blocks)
    assert (log.blocks > 0).all()
    assert (log.copies > 0).all()
    entries = list(zip(log.time_ns, log.replica, log.row, log.first_key, strict=True))
    assert entries == sorted(set(entries))
    for place in range(1, len(entries)):
        if entries[place][:3] == entries[place - 1][:3]:
            end = log.first_key[place - 1] + log.blocks[place - 1]
            assert end < log.first_key[place] or (
                end == log.first_key[place] and log.copies[place] != log.copies[place - 1]
            )


@pytest.mark.parametrize("backend", ["native", "numba"])
@pytest.mark.parametrize("name", CASES)
def test_backends_agree_on_the_cases(name, backend):
    assert_same(CASES[name], backend)


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (61, "one request ends while another has its last token in flight"),
        (4498, "a child computes blocks that its running parent has just generated"),
        (8159, "a fork looks for a key that the step in flight will give"),
        (13170, "a request is preempted while its last token is in flight"),
    ],
)
def test_backends_agree_where_requests_meet(seed, what):
    assert_same(draw_case(Random(seed)), "native")


@given(any_case)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_draw_agrees_and_keeps_the_invariants(case):
    columns, totals = assert_same(case, "native")
    kept = case.workload.refused == 0
    assert (columns.finish_ns != END).all()
    assert (totals["peak_blocks"] <= case.settings.num_gpu_blocks - 1).all()
    assert (totals["busy_ns"] <= totals["end_ns"]).all()
    for replica in range(case.fleet.replicas):
        its = columns.replica == replica
        assert columns.gpu_ns[its].sum() == totals["busy_ns"][replica]
        assert columns.preemptions[its].sum() == totals["preemptions"][replica]
    times = [columns.release_ns, columns.scheduled_ns, columns.first_token_ns, columns.finish_ns]
    for earlier, later in pairwise(times):
        assert (earlier <= later)[kept].all()
    assert (columns.cached_tokens < case.contexts.prompt)[kept].all()
    assert (columns.loaded_tokens <= columns.cached_tokens).all()
    if case.settings.windows.any() and case.settings.retention != engine_kernels.NO_CACHE:
        assert (columns.cached_tokens <= columns.hittable_tokens)[kept].all()
    assert (columns.recompute_ns <= columns.first_token_ns - columns.scheduled_ns)[kept].all()


@given(any_case, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_step_by_step_the_pools_agree_and_lose_no_block(case, random):
    rows = list(range(len(case.contexts.prompt)))
    random.shuffle(rows)
    native = stepper("native", case.settings, case.contexts, case.plan)
    oracle = stepper("reference", case.settings, case.contexts, case.plan)
    unfinished = len(rows)
    in_flight = 0
    now_ns = 0
    while unfinished:
        while rows and random.random() < 0.4:
            row = rows.pop()
            native.arrive(row, now_ns)
            oracle.arrive(row, now_ns)
        step = oracle.schedule(now_ns)
        assert native.schedule(now_ns) == step
        assert native.next_event_ns() == oracle.next_event_ns()
        check_blocks(oracle.engine)
        if not step.work and oracle.next_event_ns() >= 0:
            now_ns = max(now_ns, oracle.next_event_ns())  # all that run are loading
        now_ns += random.choice([0, 1, random.randrange(10**4)])
        in_flight += 1
        if in_flight <= case.settings.async_scheduling and random.random() < 0.8:
            continue
        in_flight -= 1
        finished = oracle.update(now_ns)
        assert native.update(now_ns) == finished
        unfinished -= len(finished)
    for row in range(len(case.contexts.prompt)):
        assert native.cached_tokens(row) == oracle.cached_tokens(row)
        assert native.loaded_tokens(row) == oracle.loaded_tokens(row)
    assert oracle.schedule(engine_kernels.FOREVER) == native.schedule(engine_kernels.FOREVER)  # lets all pauses end
    check_blocks(oracle.engine)
    assert oracle.engine.counts[engine_kernels.FREE] == case.settings.num_gpu_blocks - 1


def check_blocks(engine: engine_kernels.Engine) -> None:
    """Every block is held as often as tables say, or stands in the free queue once."""
    holders = np.zeros(len(engine.held_by), np.int64)
    for row in range(len(engine.held)):
        start = engine.table_start[row]
        np.add.at(holders, engine.table[:, start : start + engine.held[row]], 1)
    holders[0] = 0  # the null block
    np.testing.assert_array_equal(engine.held_by, holders)
    free = []
    block = engine.later[0]
    while block != 0:
        free.append(block)
        block = engine.later[block]
    assert len(set(free)) == len(free) == engine.counts[engine_kernels.FREE]
    assert engine.in_use.sum() == holders.sum()
    assert not holders[free].any()
    assert len(free) + np.count_nonzero(holders) == len(engine.held_by) - 1
