"""Advantages within groups of rollouts of one question."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvsim.reward.shapes._arguments import Floats, Groups, finite, flags, numbered

#: Values that differ by less than this part of the largest are equal: rounding must not become an advantage.
SAME = 1e-9


def group_relative(
    values: npt.ArrayLike, groups: Groups, *, among: npt.ArrayLike | None = None, scale: bool = True, ddof: int = 0
) -> Floats:
    """(value - mean) / standard deviation within each group, as in GRPO (DeepSeekMath, arXiv 2402.03300).

    0 throughout a group whose values are equal (to 1e-9 of the largest), or of fewer than two members; so there is no
    division by 0 and no constant added to the deviation. ``scale=False`` leaves the division out (Dr. GRPO, arXiv
    2503.20783). ``ddof=1`` takes the sample's deviation, as TRL does. ``among``: only these rollouts count, in the
    mean as in the deviation, and the others get 0.
    """
    given = finite("values", values)
    group = numbered(groups, len(given))
    member = np.ones(len(given), bool) if among is None else flags("among", among, given)
    chosen = np.flatnonzero(member)
    result = np.zeros(len(given))
    count = np.bincount(group[chosen], minlength=1)
    largest = np.zeros(len(count))
    np.maximum.at(largest, group[chosen], np.abs(given[chosen]))
    unit = np.where(largest > 0, largest, 1.0)
    part = given[chosen] / unit[group[chosen]]  # at most 1, so that no square overflows
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group[chosen], part, len(count)) / count
        away = part - mean[group[chosen]]
        spread = np.sqrt(np.bincount(group[chosen], away * away, len(count)) / (count - ddof))
    varied = np.zeros(len(count))
    np.maximum.at(varied, group[chosen], np.abs(away))
    differs = ((count > 1) & (varied > SAME))[group[chosen]]
    of_group = group[chosen[differs]]
    result[chosen[differs]] = away[differs] / spread[of_group] if scale else away[differs] * unit[of_group]
    return result


def cost_advantage(cost: npt.ArrayLike, groups: Groups, *, among: npt.ArrayLike | None = None) -> Floats:
    """-:func:`group_relative` of costs: above 0 for rollouts cheaper than their group."""
    return 0.0 - group_relative(finite("cost", cost), groups, among=among)
