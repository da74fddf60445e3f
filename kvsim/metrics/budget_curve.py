"""Budget curves: what is solved, and spent, as the budget of an attempt grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvsim.metrics._runs import Floats, outcomes, values


@dataclass(frozen=True)
class BudgetCurve:
    """At each of ``budgets`` (ascending): the share of attempts ``solved`` within it, and the mean cost ``spent``.

    An attempt that costs more is stopped at the budget and solves nothing.
    """

    budgets: Floats
    solved: Floats
    spent: Floats


def budget_curve(cost: npt.ArrayLike, correct: npt.ArrayLike, budgets: npt.ArrayLike | None = None) -> BudgetCurve:
    """The budget curve of attempts; by default at every cost at which one more is solved.

    solved(B) = share of attempts that are correct and cost at most B; spent(B) = mean of min(cost, B).
    """
    costs, right = outcomes(cost, correct)
    at = np.unique(costs[right] if budgets is None else values("budgets", budgets))
    by_cost, solving = np.sort(costs), np.sort(costs[right])
    whole = np.concatenate([[0.0], np.cumsum(by_cost)])
    within = np.searchsorted(by_cost, at, side="right")
    attempts = max(len(costs), 1)
    spent = (whole[within] + (len(costs) - within) * at) / attempts
    return BudgetCurve(at, np.searchsorted(solving, at, side="right") / attempts, spent)
