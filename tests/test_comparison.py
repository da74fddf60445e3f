"""Runs beside each other: the same in any order, mirrored when swapped, and the textbook's partial correlation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kvsim.errors import InputError
from kvsim.insight import Run, compare
from kvsim.insight.comparison import flagged
from kvsim.insight.partial_correlation import correlation
from kvsim.insight.resampling import ends, resampled

VALUES = st.integers(0, 40).map(lambda number: number / 8)


@st.composite
def rollouts(draw, most_tasks=6):
    """Costs, scores and tasks of a run."""
    tasks = draw(st.lists(st.integers(0, most_tasks), min_size=1, max_size=14))
    costs = draw(st.lists(VALUES, min_size=len(tasks), max_size=len(tasks)))
    scores = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(tasks), max_size=len(tasks)))
    return costs, scores, tasks


def run(name, rollouts):
    return Run.of(name, *rollouts)


def mirrored(figure, other):
    if figure.value is None:
        return other.value is None
    assert figure.value == -other.value
    if figure.interval is None:
        return other.interval is None
    return figure.interval == (-other.interval.high, -other.interval.low)


@settings(max_examples=25, deadline=None)
@given(one=rollouts(), other=rollouts())
def test_swapping_two_runs_mirrors_their_differences(one, other):
    (pair,) = compare([run("a", one), run("b", other)]).pairs
    (back,) = compare([run("b", other), run("a", one)]).pairs
    assert pair.tasks == back.tasks
    assert mirrored(pair.cost, back.cost)
    assert mirrored(pair.success, back.success)
    assert (pair.dearer, pair.cheaper, pair.better, pair.worse) == (back.cheaper, back.dearer, back.worse, back.better)
    for difference in pair.differences:
        (same,) = [task for task in back.differences if task.task == difference.task]
        assert difference.rollouts == same.rollouts[::-1]
        assert mirrored(difference.cost, same.cost)
        assert mirrored(difference.success, same.success)


def told(comparison):
    return comparison.summaries, comparison.pairs, comparison.links, comparison.front


@settings(max_examples=25, deadline=None)
@given(one=rollouts(), other=rollouts(), random=st.randoms(use_true_random=False))
def test_the_order_of_rollouts_says_nothing(one, other, random):
    places = list(range(len(one[0])))
    random.shuffle(places)
    shuffled = tuple([column[place] for place in places] for column in one)
    assert told(compare([run("a", one), run("b", other)])) == told(compare([run("a", shuffled), run("b", other)]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(5, 60))
def test_partial_correlation_is_that_of_residuals(seed, n):
    """Of what two quantities are beyond a straight line in the third; and without a third it is Pearson's."""
    random = np.random.default_rng(seed)
    third = random.normal(size=n)
    one, other = random.normal(size=n) + third, 1e6 + random.normal(size=n) - 2 * third
    clusters = np.arange(n)
    left = [values - np.polyval(np.polyfit(third, values, 1), third) for values in (one, other)]
    assert correlation(one, other, clusters, 0, given=third).value == pytest.approx(stats.pearsonr(*left)[0], abs=1e-6)
    assert correlation(one, other, clusters, 0).value == pytest.approx(stats.pearsonr(one, other)[0], abs=1e-9)


def test_the_bootstrap_covers_what_it_says():
    """The mean of 40 clusters is within its 90 % interval in about 90 % of 300 samples."""
    random = np.random.default_rng(7)
    hits = 0
    for number in range(300):
        sample = random.gamma(4.0, 1.0, (40, 1))
        low, high = ends(resampled(sample, lambda means: means[:, 0], 1, number))
        hits += low <= 4.0 <= high
    assert 0.84 <= hits / 300 <= 0.94


def test_rollouts_of_one_task_are_not_independent():
    """Ten copies of every rollout say no more than one of each."""
    random = np.random.default_rng(1)
    costs, scores = random.normal(10, 3, 20).clip(1), random.integers(0, 2, 20).astype(float)
    once = compare([Run.of("a", costs, scores, range(20))]).summaries[0]
    often = compare([Run.of("a", np.tile(costs, 10), np.tile(scores, 10), list(range(20)) * 10)]).summaries[0]
    assert often.rollouts == 200
    assert once.tasks == often.tasks == 20
    assert often.cost.interval == pytest.approx(once.cost.interval)
    assert often.cost_of_success.interval == pytest.approx(once.cost_of_success.interval)


def test_figures_by_hand():
    a = Run.of("a", [1, 3, 4], [1, 0, 1], ["x", "x", "y"])
    b = Run.of("b", [5, 5, 9], [1, 1, 1], ["y", "x", "z"])
    comparison = compare([a, b])
    first, second = comparison.summaries
    assert (first.rollouts, first.tasks, first.cost.value, first.success.value) == (3, 2, 3.0, 0.75)
    assert first.cost_of_success.value == 4.0
    assert second.cost.value == pytest.approx(19 / 3)
    assert [summary.on_front for summary in comparison.summaries] == [True, True]
    (pair,) = comparison.pairs
    assert (pair.tasks, pair.cost.value, pair.success.value) == (2, 2.0, 0.25)
    assert pair.cost_ratio.value == 5 / 3
    assert (pair.dearer, pair.cheaper, pair.better, pair.worse) == (2, 0, 1, 0)
    assert [(task.task, task.cost.value, task.cost.interval) for task in pair.differences] == [
        ("x", 3, None),
        ("y", 1, None),
    ]


def test_difficulty_is_what_all_others_say():
    """Cost follows difficulty alone: that hard tasks cost more is not that failure costs.

    What others say of a task's difficulty is noisy, so a little is left; less with more rollouts of it.
    """
    random = np.random.default_rng(3)
    task = np.repeat(np.arange(60), 40)
    hard = np.repeat(random.uniform(0, 1, 60), 40)
    success = (random.uniform(size=2400) > hard).astype(float)
    cost = 1 + 5 * hard + random.normal(0, 0.3, 2400)
    (link,) = compare([Run.of("a", cost, success, task.tolist())]).links
    assert link.plain.value < -0.3
    assert abs(link.given_difficulty.value) < abs(link.plain.value) / 3
    assert (link.given_difficulty.n, link.given_difficulty.clusters) == (2400, 60)
    assert link.plain.interval.low < link.plain.value < link.plain.interval.high < 0


@pytest.mark.parametrize(
    ("cost", "success", "task", "why"),
    [
        ([1, 2, 3, 4, 5], [1, 1, 1, 1, 1], [0, 0, 1, 1, 2], "success the same everywhere"),
        ([2, 2, 2, 2, 2], [1, 0, 1, 0, 1], [0, 0, 1, 1, 2], "cost the same everywhere"),
        ([1, 2, 3], [1, 0, 1], [0, 0, 1], "too few"),
        ([1, 2, 3, 4, 5], [1, 0, 1, 0, 1], [0, 1, 2, 3, 4], "no task was tried twice"),
    ],
)
def test_what_cannot_be_said_is_not(cost, success, task, why):
    (link,) = compare([Run.of("a", cost, success, task)]).links
    assert link.given_difficulty.value is None
    assert why in link.given_difficulty.why


def test_a_difficulty_that_is_the_same_everywhere_holds_nothing_fixed():
    task = [0, 0, 1, 1]
    one = correlation(np.array([1.0, 2, 3, 5]), np.array([1.0, 0, 1, 0]), np.array(task), 0, given=np.full(4, 0.5))
    assert one == correlation(np.array([1.0, 2, 3, 5]), np.array([1.0, 0, 1, 0]), np.array(task), 0)


def test_one_task_has_no_interval():
    comparison = compare([Run.of("a", [1, 2, 2], [1, 0, 0], ["x"] * 3), Run.of("b", [1, 4, 4], [0, 0, 0], ["x"] * 3)])
    assert comparison.summaries[0].cost.interval is None
    assert comparison.summaries[1].cost_of_success.value is None
    (pair,) = comparison.pairs
    assert pair.cost.interval is None
    assert pair.differences[0].cost.interval is not None  # both tried it three times
    assert any("rough" in sentence for sentence in flagged(comparison))


def test_runs_without_a_task_in_common():
    comparison = compare([Run.of("a", [1], [1], ["x"]), Run.of("b", [1], [1], ["y"])])
    (pair,) = comparison.pairs
    assert (pair.tasks, pair.cost.value, pair.cost_ratio.value, pair.differences) == (0, None, None, [])
    assert any("no task in common" in sentence for sentence in flagged(comparison))


def test_the_same_rollouts_priced_twice_do_not_tell_of_each_other():
    """Else a rollout's own success would be in the difficulty that is held fixed."""
    random = np.random.default_rng(5)
    cost, success, task = random.gamma(4.0, 1.0, 90), random.integers(0, 2, 90).astype(float), list(range(30)) * 3
    alone = compare([Run.of("a", cost, success, task)]).links[0]
    twice = compare([Run.of("a", cost, success, task, source="x"), Run.of("b", 2 * cost, success, task, source="x")])
    assert twice.links[0] == alone
    assert twice.links[1].given_difficulty.value == pytest.approx(alone.given_difficulty.value)
    others = compare([Run.of("a", cost, success, task), Run.of("b", 2 * cost, success, task)])
    assert others.links[0].given_difficulty.value != pytest.approx(alone.given_difficulty.value)


def test_what_is_no_run_is_refused():
    with pytest.raises(InputError, match="holds no rollout"):
        Run.of("a", [], [])
    with pytest.raises(InputError, match="finite"):
        Run.of("a", [float("nan")], [1])
    with pytest.raises(InputError, match="one value each"):
        Run.of("a", [1, 2], [1, 0], ["x"])
    with pytest.raises(InputError, match="name"):
        compare([Run.of("a", [1], [1]), Run.of("a", [1], [1])])
    with pytest.raises(InputError, match="nothing"):
        compare([])
