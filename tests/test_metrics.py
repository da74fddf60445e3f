"""Metrics of cost and success, beside their definitions written out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.metrics.budget_curve import budget_curve
from kvsim.metrics.cost_of_pass import cost_of_pass
from kvsim.metrics.eff_at_k import eff_at_k, efficiency
from kvsim.metrics.pareto import pareto_front
from kvsim.metrics.tool_productivity import tool_productivity


def test_cost_of_pass_is_cost_over_success() -> None:
    found = cost_of_pass([1.0, 3.0, 2.0, 5.0, 7.0], [1, 0, 1, 0, 0], ["p", "p", "q", "r", "r"])
    np.testing.assert_array_equal(found, [4.0, 2.0, np.inf])
    assert cost_of_pass([1.0, 2.0, 3.0, 2.0], [1, 1, 0, 0]).tolist() == [4.0]
    assert cost_of_pass([], []).shape == (0,)
    with pytest.raises(InputError, match="problems"):
        cost_of_pass([1.0], [1], ["p", "q"])
    with pytest.raises(InputError, match="cost"):
        cost_of_pass([np.nan], [1])


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(0, 2), min_size=1, max_size=8), data=st.data())
def test_eff_at_k_is_the_mean_over_all_choices(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    best = [max(chosen) for chosen in combinations(values, k)]
    np.testing.assert_allclose(eff_at_k(values, k), [np.mean(best)], rtol=1e-12, atol=1e-15)


def test_eff_at_k_of_zeros_and_ones_is_pass_at_k() -> None:
    n, c, k = 200, 30, 10
    passes = 1 - np.prod(1 - k / np.arange(n - c + 1, n + 1))
    np.testing.assert_allclose(eff_at_k([1] * c + [0] * (n - c), k), [passes], rtol=1e-12)
    two = eff_at_k([1, 0, 0.5, 0.5], 2, ["p", "p", "q", "q"])
    np.testing.assert_allclose(two, [1.0, 0.5])
    with pytest.raises(InputError, match="1 attempts"):
        eff_at_k([1, 0, 1], 2, ["p", "p", "q"])


def test_efficiency_is_censored_at_the_limit() -> None:
    found = efficiency([1.0, 3.0, 5.0, 99.0, 1.0, 0.5], [1, 1, 1, 1, 0, 1], limit=5.0, reference=1.0)
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0, 0.0, 0.0, 1.125])
    with pytest.raises(InputError, match="limit"):
        efficiency([1.0], [1], limit=1.0, reference=1.0)


def test_tool_productivity() -> None:
    assert tool_productivity([1, 0, 1], [2, 5, 1]) == 2 / 8
    assert tool_productivity([1, 0], [0, 0]) == np.inf
    assert tool_productivity([0, 0], [0, 0]) == 0


@settings(max_examples=60, deadline=None)
@given(attempts=st.lists(st.tuples(st.floats(0, 100), st.booleans()), min_size=1, max_size=12), data=st.data())
def test_budget_curve_stops_what_costs_more(attempts: list, data: st.DataObject) -> None:
    cost, right = np.array([a for a, _ in attempts]), np.array([b for _, b in attempts])
    budgets = data.draw(st.none() | st.lists(st.floats(0, 120), min_size=1, max_size=5))
    curve = budget_curve(cost, right, budgets)
    assert (np.diff(curve.budgets) > 0).all()
    for budget, solved, spent in zip(curve.budgets, curve.solved, curve.spent, strict=True):
        assert solved == (right & (cost <= budget)).mean()
        np.testing.assert_allclose(spent, np.minimum(cost, budget).mean(), rtol=1e-12, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(runs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=10))
def test_nobody_on_the_pareto_front_is_beaten(runs: list[tuple[int, int]]) -> None:
    cost, quality = np.array([c for c, _ in runs]), np.array([q for _, q in runs])
    front = set(pareto_front(cost, quality).tolist())
    for number, (c, q) in enumerate(runs):
        beaten = any(
            oc <= c and oq >= q and (oc < c or oq > q or other < number) for other, (oc, oq) in enumerate(runs)
        )
        assert (number in front) != beaten
    assert sorted(cost[list(front)]) == cost[pareto_front(cost, quality)].tolist() if runs else not front
