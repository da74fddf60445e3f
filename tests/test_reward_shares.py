"""What rollouts share is paid once, and their shares sum to the total to the last nanosecond."""

from __future__ import annotations

import numpy as np
import pytest
from cases import columns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reward_cases import MODEL, counts_of, ids_of, random_runs, runs

import kvsim
from kvsim.reward import UNITS

EASY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit != "latency_s"])
def test_a_group_prefills_its_prompt_once(unit: str) -> None:
    turns = [[(4096, 50), (4300, 20)], [(4096, 10)], [(4096, 300)]]
    term = kvsim.CostTerm(**MODEL, unit=unit, reading="exact")
    apart, together = term.price(turns), term.price(turns, groups=["a", "a", "a"])
    assert together.trajectories.tobytes() == apart.trajectories.tobytes()
    assert apart.total == pytest.approx(apart.trajectories.sum(), rel=1e-9)
    batch = apart.rollouts.batch
    first = batch.parent < 0
    shared = kvsim.Batch.from_columns(
        parent=batch.parent,
        kept_tokens=np.where(first, 4096, batch.kept_tokens),
        prompt_tokens=batch.prompt_tokens,
        output_tokens=batch.output_tokens,
        pause_ns=batch.pause_ns,
        arrival_ns=batch.arrival_ns,
        trajectory=batch.trajectory,
        prefix=np.where(first, 0, -1),
    )
    if unit == "pte":
        expected = kvsim.pte(shared, **MODEL, reading="exact").trajectories.sum()
    else:
        expected = getattr(kvsim.estimate(shared, **MODEL), unit).sum()
    assert together.total == pytest.approx(expected, rel=1e-9)
    assert term.price(shared).total == together.total
    assert term.price(shared).trajectories.tobytes() == apart.trajectories.tobytes()
    saved = apart.shares.parts - together.shares.parts
    assert together.total < apart.total
    assert saved.max() - saved.min() <= 1


def test_equal_token_ids_are_one_prompt() -> None:
    run = random_runs(1, 3)[0]
    ids, mask = ids_of(run)
    other = ids.copy()
    other[0] = 77
    term = kvsim.CostTerm(**MODEL)
    grouped = term.price([counts_of(run)] * 3, groups=[0, 0, 1])
    found = term.price([ids, ids.copy(), other], masks=[mask] * 3)
    assert found.shares.parts.tolist() == grouped.shares.parts.tolist()
    assert found.total < float(found.trajectories.sum())


@EASY
@given(given_runs=runs, unit=st.sampled_from(UNITS), data=st.data())
def test_shares_sum_to_the_total(given_runs: list, unit: str, data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(given_runs), max_size=len(given_runs)))
    costs = kvsim.CostTerm(**MODEL, unit=unit).price([counts_of(run) for run in given_runs], groups=groups)
    shares = costs.shares
    assert int(shares.parts.sum()) == shares.total_parts
    assert shares.values.shape == (len(given_runs),)
    np.testing.assert_allclose(shares.values.sum(), shares.total, rtol=1e-12)
    if unit != "latency_s":
        sums = np.add.reduceat(shares.turns.values, shares.turns.offsets[:-1])
        np.testing.assert_allclose(sums, shares.values, rtol=1e-9)


TREE = [
    [(1000, 40), (1200, 30), (1500, 20)],
    [(1000, 40), (1200, 30), (1400, 10)],
    [(1000, 40), (1300, 35)],
    [(1000, 40)],
]
STEPS = [["a", "b", "c"], ["a", "b", "d"], ["a", "e"], ["a"]]


@pytest.mark.parametrize("unit", UNITS)
def test_turns_of_a_tree_are_paid_once(unit: str) -> None:
    term = kvsim.CostTerm(**MODEL, unit=unit)
    apart, tree = term.price(TREE), term.price(TREE, steps=STEPS)
    assert tree.rollouts.batch.turns == 5
    if unit == "kv_byte_s" or unit == "pte":
        np.testing.assert_allclose(tree.trajectories, apart.trajectories, rtol=1e-12)
        np.testing.assert_allclose(tree.marginal.values, apart.marginal.values, rtol=1e-9)
    else:
        assert tree.trajectories.tobytes() == apart.trajectories.tobytes()
        assert tree.marginal.values.tobytes() == apart.marginal.values.tobytes()
    assert tree.turns.values.tobytes() == apart.turns.values.tobytes()
    assert tree.calls.tolist() == apart.calls.tolist() == [2, 2, 1, 0]
    assert int(tree.shares.parts.sum()) == tree.shares.total_parts
    if unit == "latency_s":
        assert tree.total == pytest.approx(tree.trajectories.sum())
        return
    a, b, c = apart.turns[0]
    d, e = apart.turns[1][2], apart.turns[2][1]
    assert tree.total == pytest.approx(a + b + c + d + e, rel=1e-9)
    expected = [a / 4 + b / 2 + c, a / 4 + b / 2 + d, a / 4 + e, a / 4]
    np.testing.assert_allclose(tree.shares.values, expected, rtol=1e-6)


def test_forked_trajectories_of_a_batch_go_through_the_trunk() -> None:
    batch = columns(
        [
            {"prompt_tokens": 1000, "output_tokens": 40},
            {"parent": 0, "kept_tokens": 1040, "prompt_tokens": 1200, "output_tokens": 30},
            {"parent": 1, "kept_tokens": 1230, "prompt_tokens": 1500, "output_tokens": 20},
            {"parent": 1, "kept_tokens": 1230, "prompt_tokens": 1400, "output_tokens": 10, "trajectory": 1},
            {"parent": 0, "kept_tokens": 1040, "prompt_tokens": 1300, "output_tokens": 35, "trajectory": 2},
        ]
    )
    term = kvsim.CostTerm(**MODEL)
    costs = term.price(batch)
    tree = term.price(TREE[:3], steps=STEPS[:3])
    assert costs.trajectories.tobytes() == tree.trajectories.tobytes()
    assert costs.marginal.values.tobytes() == tree.marginal.values.tobytes()
    assert costs.shares.parts.tolist() == tree.shares.parts.tolist()
    assert costs.total == tree.total
    assert costs.total == pytest.approx(kvsim.estimate(batch, **MODEL).gpu_s.sum(), rel=1e-12)


def test_a_tree_of_groups() -> None:
    """Two questions, each with a shared first turn in its rollouts: prompts and turns are both paid once."""
    turns = [[(4000, 40), (4200, 30)], [(4000, 40), (4300, 20)], [(4000, 15)]]
    steps = [["a", "b"], ["a", "c"], ["d"]]
    costs = kvsim.CostTerm(**MODEL).price(turns, steps=steps, groups=[0, 0, 0])
    assert int(costs.shares.parts.sum()) == costs.shares.total_parts
    only_steps = kvsim.CostTerm(**MODEL).price(turns, steps=steps)
    assert costs.total < only_steps.total


def test_what_does_not_divide_goes_to_the_first() -> None:
    costs = kvsim.CostTerm(**MODEL, unit="model_s").price([[(100, 4)]] * 7, steps=[["a"]] * 7)
    each, rest = divmod(costs.shares.total_parts, 7)
    assert costs.shares.parts.tolist() == [each + 1] * rest + [each] * (7 - rest)
