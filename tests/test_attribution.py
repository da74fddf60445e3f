"""Attribution adds up: every turn, trajectory and run, on estimates and simulations."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import kvsim
from kvsim.insight import attribute
from kvsim.insight.parts import PARTS

DEVICE = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}
LOADS = {
    "alone": kvsim.Load(),
    "always": kvsim.Load(kv="always"),
    "ttl": kvsim.Load(kv="ttl:5"),
    "lru": kvsim.Load(concurrent=8, mean_context=8000, kv="lru", churn_blocks_per_s=1000.0),
    "logged": kvsim.Load(kv="logged"),
    "concurrent": kvsim.Load(concurrent=16),
}


def assert_adds_up(result):
    attribution = attribute(result)
    turns = attribution.turns
    released, finished = (
        result.span_ns if isinstance(result, kvsim.Estimate) else (result.served.release_ns, result.served.finish_ns)
    )
    ok = attribution.parts.ok
    assert all((column >= 0).all() for column in turns.values())
    np.testing.assert_array_equal(sum(turns[name] for name in PARTS), np.where(ok, finished - released, 0))
    owner = result.batch.trajectory
    for name, column in turns.items():
        by_trajectory = attribution.trajectories[name]
        for trajectory in range(len(result.batch)):
            its = column[owner == trajectory]
            whole = ok[owner == trajectory].all()
            assert by_trajectory[trajectory] == (pytest.approx(its.sum(), rel=1e-12) if whole else 0)
        if name.endswith("_ns"):
            assert attribution.run[name].tolist() == [by_trajectory.sum()]
    assert attribution.left_out == len(set(owner[~ok].tolist()))
    return attribution


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@given(batch=cases.batches())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_estimates_of_random_batches_add_up(load, batch):
    assert_adds_up(kvsim.estimate(batch, **DEVICE, load=load))


@given(batch=cases.batches())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_simulations_of_random_batches_add_up(batch):
    assert_adds_up(kvsim.simulate(batch, **DEVICE))
