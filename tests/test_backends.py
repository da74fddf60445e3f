"""All backends give the same bits: on every case, and on whatever Hypothesis draws."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import CASES, RATES, all_rates, batches, linear, make_rates, step_table
from hypothesis import HealthCheck, given, settings

from kvsim import backends
from kvsim.backends import kernels
from kvsim.backends.interface import empty_columns
from kvsim.errors import BackendUnavailableError, UnknownNameError

FAST = ("native", "numba")


def priced(name, rates, step, batch):
    backend = backends.get(name)
    columns = empty_columns(batch.turns)
    result = backend.estimate(backend.prepare(rates, step), batch.packed(backend), columns)
    return [("totals", result.totals), ("held_block_ns", result.held_block_ns), *columns._asdict().items()]


def assert_equal_to_reference(name, rates, step, batch):
    for (label, expected), (_, found) in zip(
        priced("reference", rates, step, batch), priced(name, rates, step, batch), strict=True
    ):
        assert expected.dtype == found.dtype
        np.testing.assert_array_equal(found, expected, err_msg=f"{name} differs from the reference in {label}")
        assert found.tobytes() == expected.tobytes(), f"{name}: {label} differs in its bits"


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("rates", [rates for _, rates in RATES], ids=[name for name, _ in RATES])
@pytest.mark.parametrize("batch", [batch for _, batch in CASES], ids=[name for name, _ in CASES])
def test_cases_are_priced_alike(name, rates, batch):
    assert_equal_to_reference(name, rates, step_table(rates), batch)


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batch=batches(), rates=all_rates())
def test_whatever_is_drawn_is_priced_alike(name, batch, rates):
    assert_equal_to_reference(name, rates, step_table(rates), batch)


@pytest.mark.parametrize("name", FAST)
def test_totals_do_not_depend_on_whether_turns_are_asked_for(name):
    rates, batch = make_rates(), linear(7, 30)
    backend = backends.get(name)
    prepared = backend.prepare(rates, step_table(rates))
    with_turns = backend.estimate(prepared, batch.packed(backend), empty_columns(batch.turns))
    without = backend.estimate(prepared, batch.packed(backend), None)
    np.testing.assert_array_equal(with_turns.totals, without.totals)


@pytest.mark.parametrize("name", ["native", "numba", "reference"])
@settings(max_examples=100, deadline=None)
@given(batch=batches())
def test_order_puts_every_turn_after_what_it_needs(name, batch):
    order = backends.get(name).topological_order(batch)
    np.testing.assert_array_equal(order, backends.get("reference").topological_order(batch))
    place = np.empty(batch.turns, np.int64)
    place[order] = np.arange(batch.turns)
    for row in range(batch.turns):
        needs = [batch.parent[row], batch.after[row], *(batch.waits_for[row] if batch.waits_for else [])]
        assert all(place[need] < place[row] for need in needs if need >= 0)


@pytest.mark.parametrize("name", FAST)
def test_threads_do_not_disturb_each_other(name):
    """Kernels release the GIL: batches of different sizes priced at once come out as if priced alone."""
    backend, rates = backends.get(name), make_rates(survival=kernels.ALWAYS)
    prepared = backend.prepare(rates, step_table(rates))
    made = [linear(12, 200 * (1 + number), seed=number) for number in range(4)]
    alone = [backend.estimate(prepared, batch.packed(backend), None).totals for batch in made]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(backend.estimate, prepared, made[n % 4].packed(backend), None) for n in range(80)]
        for number, job in enumerate(jobs):
            np.testing.assert_array_equal(job.result().totals, alone[number % 4])


def test_unknown_backend_lists_the_known():
    with pytest.raises(UnknownNameError, match="native"):
        backends.get("naitve")


@pytest.mark.skipif(backends.unavailable_reason("cuda") is None, reason="it can")
def test_cuda_says_why_it_cannot_run():
    with pytest.raises(BackendUnavailableError, match="cuda"):
        backends.get("cuda")
    assert "cuda" in backends.unavailable_reason("cuda")


def test_missing_native_is_an_error_by_name_and_a_fallback_for_auto(monkeypatch):
    import kvsim
    from kvsim.backends import native

    def gone():
        raise BackendUnavailableError("native: not built")

    monkeypatch.setattr(native, "load", gone)
    backends.get.cache_clear()
    try:
        with pytest.raises(BackendUnavailableError, match="not built"):
            backends.get("native")
        assert backends.auto().name == "numba"
        kwargs = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}
        assert kvsim.estimate(linear(3), **kwargs).backend == "numba"
    finally:
        backends.get.cache_clear()


def test_ci_has_both_fast_backends():
    assert backends.unavailable_reason("native") is None
    assert backends.unavailable_reason("numba") is None
