"""Cost-of-pass: what one correct answer costs (Erol et al., arXiv 2504.13359)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from kvsim.metrics._runs import Floats, outcomes, problems_of


def cost_of_pass(
    cost: npt.ArrayLike, correct: npt.ArrayLike, problems: Sequence[Hashable] | npt.ArrayLike | None = None
) -> Floats:
    """Mean cost of an attempt / share of correct attempts, for each problem in order of first appearance.

    The paper's v(m, p) = C_m(p) / R_m(p), with the mean of the attempts for both expectations. Infinite where no
    attempt was correct. ``cost`` and ``correct`` (attempts,); ``problems`` (attempts,), by default all attempts are of
    one. The paper's number for a set of problems is the mean over them: infinite where one is never solved.
    """
    costs, right = outcomes(cost, correct)
    problem, count = problems_of(problems, len(costs))
    paid = np.bincount(problem, weights=costs, minlength=count)
    passed = np.bincount(problem, weights=right, minlength=count)
    costs_of_pass: Floats = np.divide(paid, passed, out=np.full(count, np.inf), where=passed > 0)
    return costs_of_pass
