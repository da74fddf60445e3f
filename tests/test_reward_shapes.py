"""Shapes of rewards: the papers' values at chosen points, their limits, and finite results for everything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.reward import PerTurn, shapes

RIGHT = np.array([1.0, 0.0, 1.0, 1.0])
CALLS = np.array([1, 0, 2, 5])


def test_linear_is_a_price() -> None:
    np.testing.assert_array_equal(shapes.linear([1, 0], [2.0, 4.0], 0.25), [0.5, -1.0])


def test_clipped_budget_sets_in_and_ends() -> None:
    found = shapes.clipped_budget(np.ones(5), [0, 10, 15, 20, 1e9], free=10, limit=20, weight=0.5)
    np.testing.assert_allclose(found, [1, 1, 0.75, 0.5, 0.5])
    with pytest.raises(InputError, match="limit"):
        shapes.clipped_budget([1.0], [1.0], free=2, limit=2)


def test_within_budget() -> None:
    np.testing.assert_array_equal(shapes.within_budget([1, 1, -1], [5, 6, 6], 5), [1, 0, -1])


def test_only_correct_rollouts_are_penalised() -> None:
    found = shapes.penalty_if_correct(RIGHT, [10.0, 99.0, 4.0, 2.0], 0.1, free=3.0)
    np.testing.assert_allclose(found, [0.3, 0.0, 0.9, 1.0])
    graded = shapes.penalty_if_correct([0.2, -1.0], [1.0, 1.0], 1.0, correct=[False, True])
    np.testing.assert_allclose(graded, [0.2, -2.0])


def test_remaining_budget_falls_within_each_rollout() -> None:
    turns = PerTurn(np.array([0, 3, 3, 4]), np.array([1.0, 2.0, 9.0, 4.0]))
    left = shapes.remaining_budget(turns, [4.0, 1.0, 5.0])
    np.testing.assert_allclose(left.values, [0.75, 0.25, 0.0, 0.2])
    with pytest.raises(InputError, match="budget"):
        shapes.remaining_budget(turns, 0.0)


def test_otc_ppo_at_the_papers_formula() -> None:
    found = shapes.otc_ppo(np.ones(3), [0, 1, 4], smoothing=2.0, alpha=0.5)
    np.testing.assert_allclose(found, [0.5, 0.5 * math.cos(math.pi / 4), 0.5 * math.cos(4 * math.pi / 10)])
    assert shapes.otc_ppo([0.0], [3], smoothing=2.0) == 0.0


def test_otc_grpo_is_highest_at_the_fewest_calls() -> None:
    found = shapes.otc_grpo(RIGHT, CALLS, 4, smoothing=1.0)
    n = 1
    f = 2 * n * CALLS / np.maximum(CALLS + n, 1)
    np.testing.assert_allclose(found, np.sin(f * np.pi / (2 * n)) * RIGHT, atol=1e-15)
    assert found[0] == 1.0
    without_call = shapes.otc_grpo(np.ones(3), [0, 1, 3], 3, smoothing=1.0)
    np.testing.assert_allclose(without_call, [1.0, math.cos(math.pi / 3), math.cos(3 * math.pi / 7)])
    assert shapes.otc_grpo([0.0, 0.0], [1, 2], 2, smoothing=1.0).tolist() == [0.0, 0.0]
    assert shapes.otc_grpo([0.3, 0.3], [1, 2], 2, smoothing=1.0, correct=[False, False]).tolist() == [0.3, 0.3]
    remembered = shapes.otc_grpo([1.0, 1.0], [2, 4], 2, smoothing=1.0, fewest=2)
    np.testing.assert_allclose(remembered, [1.0, math.sin(math.pi * 4 / 6)])
    np.testing.assert_array_equal(shapes.fewest_calls(CALLS, RIGHT, [0, 0, 1, 1]), [1, 1, 2, 2])
    assert np.isinf(shapes.fewest_calls([3], [0], 1)).all()


def test_hdpo_rewards_thrift_among_the_correct_only() -> None:
    channels = shapes.hdpo(RIGHT, shapes.inverse_calls(CALLS), 4, efficiency_weight=0.5)
    np.testing.assert_array_equal(channels.efficiency[1], 0)
    assert channels.efficiency[0] > channels.efficiency[2] > channels.efficiency[3]
    np.testing.assert_allclose(channels.efficiency.sum(), 0, atol=1e-12)
    np.testing.assert_allclose(channels.accuracy, shapes.group_relative(RIGHT, 4))
    np.testing.assert_allclose(channels.combined, channels.accuracy + 0.5 * channels.efficiency)
    alone = shapes.hdpo([1.0, 0.0, 0.0, 0.0], shapes.inverse_calls(CALLS), 4)
    np.testing.assert_array_equal(alone.efficiency, 0)
    np.testing.assert_array_equal(shapes.hdpo(np.zeros(4), shapes.inverse_calls(CALLS), 4).combined, 0)


def test_group_relative_is_grpos() -> None:
    values = np.array([1.0, 2.0, 3.0, 10.0, 10.0, 10.0])
    found = shapes.group_relative(values, 3)
    np.testing.assert_allclose(found[:3], (values[:3] - 2) / values[:3].std())
    np.testing.assert_array_equal(found[3:], 0)
    sample = shapes.group_relative(values, ["a"] * 3 + ["b"] * 3, ddof=1)
    np.testing.assert_allclose(sample[:3], [-1, 0, 1])
    np.testing.assert_allclose(shapes.group_relative(values, 3, scale=False)[:3], [-1, 0, 1])
    np.testing.assert_allclose(shapes.cost_advantage(values, 3), -found)
    among = shapes.group_relative(values, 6, among=[1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(among, np.concatenate([found[:3], np.zeros(3)]))


def test_rounding_is_no_advantage() -> None:
    costs = np.array([0.123456789, 0.123456789 + 1e-12, 0.123456789])
    np.testing.assert_array_equal(shapes.group_relative(costs, 3), 0)


STEPS = [["a", "b", "c"], ["a", "b", "d"], ["a", "e"], ["a"]]


def test_a_shared_step_has_one_value() -> None:
    values = np.array([1.0, 0.0, 0.5, 0.1])
    mean = shapes.shared_steps(values, STEPS)
    np.testing.assert_allclose(mean.values, [0.4, 0.5, 1.0, 0.4, 0.5, 0.0, 0.4, 0.5, 0.4])
    best = shapes.shared_steps(values, STEPS, best=True)
    np.testing.assert_allclose(best.values, [1, 1, 1, 1, 1, 0, 1, 0.5, 1])
    assert len(mean) == 4
    np.testing.assert_allclose(mean[2], [0.4, 0.5])


def test_siblings_of_a_fork_are_compared() -> None:
    values = np.array([1.0, 0.0, 0.5, 0.1])
    local = shapes.fork_relative(values, STEPS, blend=0.0)
    np.testing.assert_allclose(local.values, [0, 0, 1, 0, 0, -1, 0, 0, 0], atol=1e-12)
    blended = shapes.fork_relative(values, STEPS, blend=2.0)
    trajectory = shapes.shared_steps(shapes.group_relative(values, 4), STEPS)
    np.testing.assert_allclose(blended.values, local.values + 2 * trajectory.values, atol=1e-12)


def test_first_steps_of_other_groups_are_no_siblings() -> None:
    steps = [["a"], ["b"], ["c"], ["d"]]
    found = shapes.fork_relative([0.0, 1.0, 10.0, 30.0], steps, groups=2, blend=0.0)
    np.testing.assert_allclose(found.values, [-1, 1, -1, 1])


def test_steps_form_a_tree() -> None:
    with pytest.raises(InputError, match="from another step"):
        shapes.shared_steps([1.0, 2.0], [["a", "b"], ["b"]])
    with pytest.raises(InputError, match="lists"):
        shapes.shared_steps([1.0, 2.0], [["a"]])


amounts = st.one_of(st.just(0.0), st.floats(-1e12, 1e12), st.sampled_from([1.0, 1e-300, 5e-324]))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.integers(1, 5), count=st.integers(1, 4))
def test_every_shape_is_finite(data: st.DataObject, size: int, count: int) -> None:
    n = size * count
    reward = np.array(data.draw(st.lists(amounts, min_size=n, max_size=n)))
    cost = np.abs(data.draw(st.lists(amounts, min_size=n, max_size=n)))
    calls = np.array(data.draw(st.lists(st.integers(0, 50), min_size=n, max_size=n)))
    if data.draw(st.booleans()):  # all equal
        reward[:], cost[:], calls[:] = reward[0], cost[0], calls[0]
    steps = [data.draw(st.lists(st.integers(0, 1), max_size=3)) for _ in range(n)]
    paths = [[tuple(path[: depth + 1]) for depth in range(len(path))] for path in steps]
    found = [
        shapes.linear(reward, cost, 0.3),
        shapes.penalty_if_correct(reward, cost, 0.3, free=1.0),
        shapes.clipped_budget(reward, cost, free=1.0, limit=2.0),
        shapes.within_budget(reward, cost, 3.0),
        shapes.otc_ppo(reward, calls, smoothing=1.0),
        shapes.otc_grpo(reward, calls, size, smoothing=2.0),
        shapes.otc_grpo(reward, cost, size, smoothing=2.0),
        shapes.hdpo(reward, -cost, size).combined,
        shapes.group_relative(reward, size),
        shapes.group_relative(reward, size, ddof=1),
        shapes.group_relative(reward, size, scale=False),
        shapes.cost_advantage(cost, size, among=reward),
        shapes.shared_steps(reward, paths).values,
        shapes.shared_steps(reward, paths, best=True).values,
        shapes.fork_relative(reward, paths, groups=None).values,
        shapes.remaining_budget(PerTurn(np.arange(n + 1), np.asarray(cost)), 2.0).values,
    ]
    for number, values in enumerate(found):
        assert np.isfinite(values).all(), number
    for advantages in found[8:10]:
        assert (np.abs(advantages) <= np.sqrt(size) + 1e-6).all()


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: shapes.linear([1.0, np.nan], [0.0, 0.0], 1.0), "reward"),
        (lambda: shapes.linear([1.0, 2.0], [0.0], 1.0), "cost"),
        (lambda: shapes.linear([1.0], [0.0], np.inf), "weight"),
        (lambda: shapes.group_relative([1.0, 2.0, 3.0], 2), "groups of 2"),
        (lambda: shapes.group_relative([1.0, 2.0, 3.0], [1, 2]), "2 values for 3"),
        (lambda: shapes.otc_ppo([1.0], [-1], smoothing=1.0), "calls"),
        (lambda: shapes.otc_ppo([1.0], [1], smoothing=0.0), "smoothing"),
    ],
)
def test_what_is_no_reward(call, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        call()
