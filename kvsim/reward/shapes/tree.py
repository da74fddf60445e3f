"""Credit for each step of rollouts that form a tree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.reward.per_turn import PerTurn
from kvsim.reward.rollouts import offsets_of
from kvsim.reward.shapes._arguments import Floats, Groups, finite, number, numbered
from kvsim.reward.shapes.group import group_relative
from kvsim.trajectory import Ints

Steps = Sequence[Sequence[Hashable]]


def shared_steps(values: npt.ArrayLike, steps: Steps, *, best: bool = False) -> PerTurn:
    """One value for each step: the mean of ``values`` over the rollouts that went through it, or the best of them.

    ``values`` (rollouts,); ``steps``: for each rollout the names of its steps, equal names for one step. A step that
    several rollouts share gets one value, steps of a fork get their own: PORTool's rule (arXiv 2510.26020). With
    ``best`` a step counts what the best of its rollouts reached, as there for the correctness of the answer; the
    paper's decay and formatting terms are not included (add per-step rewards of your own).
    """
    number_of, offsets, of_rollout, _ = _tree(values, steps)
    given = finite("values", values)[of_rollout]
    return PerTurn(offsets, _reduced(given, number_of, best)[number_of])


def fork_relative(
    values: npt.ArrayLike, steps: Steps, *, groups: Groups | None = None, best: bool = False, blend: float = 1.0
) -> PerTurn:
    """Advantages for each step: against its siblings, plus ``blend`` times the rollout's against its group.

    A step's value is that of :func:`shared_steps`. Its fork-relative advantage is (value - mean) / deviation among
    the distinct steps that follow the same one (the first steps of a group follow none); 0 where it is an only child
    or all are equal. To it ``blend`` times :func:`group_relative` of the rollout's own value is added, averaged over
    the rollouts that share the step, so that a shared step has one advantage. The blend of the two kinds follows
    PORTool (arXiv 2510.26020); averaging is ours. ``groups``: as everywhere; by default all rollouts are one.
    """
    number_of, offsets, of_rollout, parent = _tree(values, steps)
    given = finite("values", values)
    group = np.zeros(len(given), np.int64) if groups is None else numbered(groups, len(given))
    of_group = group_relative(given, group)
    value = _reduced(given[of_rollout], number_of, best)
    _, first = np.unique(number_of, return_index=True)
    siblings = np.where(parent < 0, -1 - group[of_rollout[first]], parent)
    local = group_relative(value, siblings)
    trajectory = _reduced(of_group[of_rollout], number_of, False)
    return PerTurn(offsets, (local + number("blend", blend) * trajectory)[number_of])


def _tree(values: npt.ArrayLike, steps: Steps) -> tuple[Ints, Ints, Ints, Ints]:
    """The number of each entry's step, where rollouts begin, each entry's rollout, and each step's predecessor."""
    if len(steps) != len(np.asarray(values)):
        problem = f"has {len(steps)} lists for {len(np.asarray(values))} rollouts"
        raise InputError(problem, field="steps", remedy="Give one list a rollout")
    numbers: dict[Hashable, int] = {}
    before: list[int] = []
    entries: list[int] = []
    for rollout, names in enumerate(steps):
        previous = -1
        for name in names:
            number_of = numbers.setdefault(name, len(numbers))
            if number_of == len(before):
                before.append(previous)
            elif before[number_of] != previous:
                raise InputError(
                    f"rollout {rollout} comes to step {name!r} from another step than an earlier one",
                    field="steps",
                    remedy="Steps form a tree: name a step by all that came before it",
                )
            entries.append(number_of)
            previous = number_of
    counts = np.array([len(names) for names in steps], np.int64)
    of_rollout = np.repeat(np.arange(len(steps)), counts)
    return np.array(entries, np.int64), offsets_of(counts), of_rollout, np.array(before, np.int64)


def _reduced(values: Floats, steps: Ints, best: bool) -> Floats:
    """One value a step from one an entry."""
    count = int(steps.max(initial=-1)) + 1
    if best:
        highest = np.full(count, -np.inf)
        np.maximum.at(highest, steps, values)
        return highest
    sums = np.bincount(steps, weights=values, minlength=count)
    return np.asarray(sums / np.bincount(steps, minlength=count))
