"""eff@k: how efficient the best of k attempts is, what exceeds a limit censored (Qiu et al., arXiv 2406.06647)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.metrics._runs import Floats, outcomes, problems_of, values


def efficiency(
    cost: npt.ArrayLike, correct: npt.ArrayLike, *, limit: npt.ArrayLike, reference: npt.ArrayLike
) -> Floats:
    """max(limit - cost, 0) / (limit - reference) for correct attempts, 0 for others, (attempts,).

    1 at the cost of the ``reference`` solution (more below it), 0 from ``limit`` on: an attempt stopped at the limit,
    whose whole cost is unknown (right-censored), has the same efficiency as if it had been let run.
    """
    costs, right = outcomes(cost, correct)
    most = np.broadcast_to(np.asarray(limit, np.float64), costs.shape)
    best = np.broadcast_to(np.asarray(reference, np.float64), costs.shape)
    if not (most > best).all():
        raise InputError("is not above reference", field="limit", remedy="Give a limit above the reference's cost")
    return np.where(right, (most - costs).clip(0) / (most - best), 0.0)


def eff_at_k(efficiencies: npt.ArrayLike, k: int, problems: Sequence[Hashable] | npt.ArrayLike | None = None) -> Floats:
    """The expected efficiency of the best of k attempts, for each problem in order of first appearance.

    The paper's unbiased estimate from n >= k attempts of a problem, sorted e_(1) <= ... <= e_(n): the sum over r from
    k to n of C(r - 1, k - 1) / C(n, k) * e_(r), which is the mean over all subsets of k. With efficiencies of 0 and 1
    it is pass@k. Raises :class:`InputError` where a problem has fewer than k attempts.
    """
    given = values("efficiencies", efficiencies)
    problem, count = problems_of(problems, len(given))
    attempts = np.bincount(problem, minlength=count)
    if k < 1 or (attempts < k).any():
        fewest = int(attempts.min()) if count else 0
        raise InputError(f"is {k}, with {fewest} attempts at a problem", field="k", remedy="Choose 1 to that number")
    result = np.empty(count)
    for number in range(count):
        ordered = np.sort(given[problem == number])
        result[number] = float(ordered @ _weights(len(ordered), k))
    return result


def _weights(n: int, k: int) -> Floats:
    """C(r - 1, k - 1) / C(n, k) for r = 1..n, from the largest down, so that no factorial is formed."""
    weights = np.zeros(n)
    weight = k / n
    for r in range(n, k - 1, -1):
        weights[r - 1] = weight
        if r > 1:
            weight *= (r - k) / (r - 1)
    return weights
