"""Runs or models beside each other: what they cost against what they achieve, and how sure the difference is.

Every task counts the same however often it was tried: figures of a run are means over its tasks of each task's mean.
Intervals are bootstraps over tasks (:mod:`kvsim.insight.resampling`), so that rollouts of one task, which are alike, do
not pass for independent ones; differences are paired by task.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import fsum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.insight.partial_correlation import Correlation, correlation
from kvsim.insight.resampling import Ends, Floats, ends, resampled
from kvsim.metrics._runs import values
from kvsim.metrics.pareto import pareto_front

FEW_TASKS = 10
"""Fewer give intervals that are rough."""

FEWEST_TRIES = 3
"""Of one task; two of them say nothing of how far others would lie."""

RUNS, PAIRS, TASKS, CORRELATIONS = range(4)
"""Streams of random numbers, so that no figure's draws depend on which others are asked for."""


class Figure(NamedTuple):
    """An estimate and its 90 % interval; None where it cannot be had."""

    value: float | None
    interval: Ends | None


@dataclass(frozen=True, eq=False)
class Run:
    """Rollouts of one model, setting or file: what each cost, how successful it was, and of which task it is."""

    name: str
    cost: Floats
    success: Floats
    task: Sequence[Hashable]
    source: str
    """Where the rollouts come from: runs of one source are the same rollouts, priced in different ways."""

    @classmethod
    def of(
        cls,
        name: str,
        cost: npt.ArrayLike,
        success: npt.ArrayLike,
        task: Sequence[Hashable] | None = None,
        *,
        source: str | None = None,
    ) -> Run:
        """A run from one value a rollout; without ``task`` each rollout is of a task of its own place.

        ``source`` is the name unless given.
        Raises :class:`InputError` where lengths differ, a value is not finite, or there is no rollout.
        """
        costs = values("cost", cost)
        tasks = list(range(len(costs))) if task is None else list(task)
        if not len(costs):
            raise InputError("holds no rollout", field=name, remedy="Leave it out")
        if len(tasks) != len(costs):
            raise InputError(f"has {len(tasks)} values for {len(costs)}", field="task", remedy="Give one value each")
        return cls(name, costs, values("success", success, len(costs)), tasks, name if source is None else source)

    @cached_property
    def rollouts(self) -> dict[Hashable, list[int]]:
        """The numbers of each task's rollouts, cheapest first; tasks in the order of their text."""
        found: dict[Hashable, list[int]] = {}
        for number in np.lexsort((self.success, self.cost)).tolist():
            found.setdefault(self.task[number], []).append(number)
        return {task: found[task] for task in sorted(found, key=lambda task: (str(task), repr(task)))}

    @cached_property
    def tasks(self) -> dict[Hashable, tuple[float, float]]:
        """Mean cost and mean success of each task."""
        return {
            task: (fsum(self.cost[its].tolist()) / len(its), fsum(self.success[its].tolist()) / len(its))
            for task, its in self.rollouts.items()
        }


@dataclass(frozen=True)
class Summary:
    """A run in all: means over tasks, and the cost of a success (mean cost / mean success)."""

    name: str
    rollouts: int
    tasks: int
    cost: Figure
    success: Figure
    cost_of_success: Figure
    """None where nothing succeeded."""
    on_front: bool
    """Whether no other run costs no more and succeeds no less, and is better in one of both."""


@dataclass(frozen=True)
class TaskDifference:
    """One task in two runs; intervals where both tried it at least :data:`FEWEST_TRIES` times."""

    task: Hashable
    rollouts: tuple[int, int]
    cost: Figure
    success: Figure


@dataclass(frozen=True)
class Pair:
    """What the second run has more than the first, over the tasks that both tried."""

    first: str
    second: str
    tasks: int
    cost: Figure
    cost_ratio: Figure
    """Cost of the second over that of the first; None where that is 0."""
    success: Figure
    dearer: int
    cheaper: int
    better: int
    worse: int
    differences: list[TaskDifference]
    """The largest difference in cost first."""


@dataclass(frozen=True)
class Link:
    """How cost goes with success among a run's rollouts: as it is, and among tasks of one difficulty."""

    name: str
    plain: Correlation
    given_difficulty: Correlation


class Comparison:
    """Two or more runs beside each other; see :func:`compare`."""

    def __init__(self, runs: Sequence[Run], seed: int) -> None:
        self.runs = list(runs)
        self._seed = seed
        self._rank = {name: rank for rank, name in enumerate(sorted(run.name for run in runs))}

    @cached_property
    def summaries(self) -> list[Summary]:
        """One a run, in the order given."""
        front = set(self.front)
        return [self._summary(run, number in front) for number, run in enumerate(self.runs)]

    @cached_property
    def front(self) -> list[int]:
        """Numbers of the runs on the Pareto front of mean success against mean cost, the cheapest first."""
        means = [_means(run) for run in self.runs]
        numbers: list[int] = pareto_front([cost for cost, _ in means], [success for _, success in means]).tolist()
        return numbers

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every two runs, in the order given."""
        return [self._pair(one, other) for one, other in combinations(self.runs, 2)]

    @cached_property
    def links(self) -> list[Link]:
        """One a run, in the order given."""
        return [self._link(run) for run in self.runs]

    def _summary(self, run: Run, on_front: bool) -> Summary:
        means = np.array(list(run.tasks.values()))
        cost, success = _means(run)
        drawn = _drawn(means, self._seed, RUNS)

        def figure(value: float | None, samples: Floats | None) -> Figure:
            return Figure(value, None if samples is None or value is None else ends(samples))

        with np.errstate(divide="ignore", invalid="ignore"):
            price = None if drawn is None else np.where(drawn[:, 1] > 0, drawn[:, 0] / drawn[:, 1], np.nan)
        return Summary(
            run.name,
            len(run.cost),
            len(run.tasks),
            figure(cost, None if drawn is None else drawn[:, 0]),
            figure(success, None if drawn is None else drawn[:, 1]),
            figure(cost / success if success > 0 else None, price),
            on_front,
        )

    def _pair(self, one: Run, other: Run) -> Pair:
        shared = [task for task in one.tasks if task in other.tasks]
        both = np.array([(*one.tasks[task], *other.tasks[task]) for task in shared]).reshape(-1, 4)
        more = both[:, 2:] - both[:, :2]
        cost = success = ratio = Figure(None, None)
        if shared:
            drawn = _drawn(more, self._seed, PAIRS)
            sides = _drawn(both, self._seed, PAIRS)
            cost, success = (
                Figure(_mean(more[:, column]), None if drawn is None else ends(drawn[:, column])) for column in (0, 1)
            )
            first = _mean(both[:, 0])
            if first > 0:
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratios = None if sides is None else np.where(sides[:, 0] > 0, sides[:, 2] / sides[:, 0], np.nan)
                ratio = Figure(_mean(both[:, 2]) / first, None if ratios is None else ends(ratios))
        differences = [self._task(one, other, task, number) for number, task in enumerate(shared)]
        differences.sort(key=lambda task: -abs(task.cost.value or 0.0))
        return Pair(
            one.name,
            other.name,
            len(shared),
            cost,
            ratio,
            success,
            dearer=int(np.count_nonzero(more[:, 0] > 0)),
            cheaper=int(np.count_nonzero(more[:, 0] < 0)),
            better=int(np.count_nonzero(more[:, 1] > 0)),
            worse=int(np.count_nonzero(more[:, 1] < 0)),
            differences=differences,
        )

    def _task(self, one: Run, other: Run, task: Hashable, number: int) -> TaskDifference:
        sides = [(run, run.rollouts[task]) for run in (one, other)]
        drawn = None
        if all(len(its) >= FEWEST_TRIES for _, its in sides):
            # Draws belong to the run, not to its side, so that both orders see the same ones.
            first, second = (
                resampled(_columns(run, its), lambda means: means, self._seed, TASKS, number, self._rank[run.name])
                for run, its in sides
            )
            drawn = second - first
        (cost, success), (other_cost, other_success) = one.tasks[task], other.tasks[task]
        intervals = [None if drawn is None else ends(drawn[:, column]) for column in (0, 1)]
        return TaskDifference(
            task,
            (len(sides[0][1]), len(sides[1][1])),
            Figure(other_cost - cost, intervals[0]),
            Figure(other_success - success, intervals[1]),
        )

    def _link(self, run: Run) -> Link:
        order = [number for its in run.rollouts.values() for number in its]
        cluster = np.repeat(np.arange(len(run.rollouts)), [len(its) for its in run.rollouts.values()])
        difficulty = self._difficulty(run)[order]
        cost, success = run.cost[order], run.success[order]
        known = ~np.isnan(difficulty)
        plain = correlation(cost, success, cluster, self._seed, CORRELATIONS)
        given = correlation(
            cost[known], success[known], cluster[known], self._seed, CORRELATIONS, given=difficulty[known]
        )
        if not known.any():
            given = given._replace(why="no task was tried twice, so that nothing says how difficult one is")
        return Link(run.name, plain, given)

    def _difficulty(self, run: Run) -> Floats:
        """Of each rollout the failure of all others of its task, in any run (leave one out); NaN: there is none."""
        found = np.full(len(run.cost), np.nan)
        others = {each.source: each for each in self.runs} | {run.source: run}  # the same rollouts count once
        for task, its in run.rollouts.items():
            scores = [score for each in others.values() for score in each.success[each.rollouts.get(task, [])].tolist()]
            if len(scores) > 1:
                total = fsum(scores)
                for number in its:
                    found[number] = 1 - (total - float(run.success[number])) / (len(scores) - 1)
        return found


def compare(runs: Sequence[Run], *, seed: int = 0) -> Comparison:
    """Set runs beside each other: cost against success, differences by task, cost against correctness.

    Intervals cover 90 % and are the same for the same rollouts in any order. There is none where fewer than two tasks,
    or three rollouts of a task could be drawn from. Difficulty of a task is the failure of all other rollouts of it, in
    whichever run, each rollout left out for itself; correctness is the success as given.
    Raises :class:`InputError` for fewer than one run and for names that are not distinct.
    """
    if not runs:
        raise InputError("there is nothing to compare", field="runs", remedy="Give at least one run")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise InputError("two runs have one name", field="name", remedy="Give each a name of its own")
    return Comparison(runs, seed)


def _means(run: Run) -> tuple[float, float]:
    """Mean cost and success over tasks."""
    costs, successes = zip(*run.tasks.values(), strict=True)
    return fsum(costs) / len(costs), fsum(successes) / len(successes)


def _mean(column: Floats) -> float:
    return fsum(column.tolist()) / len(column)


def _columns(run: Run, rows: list[int]) -> Floats:
    return np.stack([run.cost[rows], run.success[rows]], axis=1)


def _drawn(means: Floats, *stream: int) -> Floats | None:
    """Mean columns of resampled tasks; None for a single task."""
    return resampled(means, lambda drawn: drawn, *stream) if len(means) > 1 else None


def flagged(comparison: Comparison) -> Iterator[str]:
    """What of a comparison rests on little, in sentences."""
    for summary in comparison.summaries:
        if summary.tasks < FEW_TASKS:
            yield f"{summary.name}: {summary.tasks} tasks say little about others: its intervals are rough"
    for pair in comparison.pairs:
        if not pair.tasks:
            yield f"{pair.first} and {pair.second} tried no task in common: no difference by task"
        elif pair.tasks < FEW_TASKS:
            yield f"{pair.first} and {pair.second} tried {pair.tasks} tasks in common: the difference is rough"
