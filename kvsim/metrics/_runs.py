"""Attempts at problems, as metrics of cost and success take them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from kvsim._numbering import numbers_of
from kvsim.errors import InputError

Floats = npt.NDArray[np.float64]


def values(name: str, given: npt.ArrayLike, attempts: int | None = None) -> Floats:
    """One finite number an attempt."""
    array = np.asarray(given, np.float64)
    if array.ndim != 1 or (attempts is not None and len(array) != attempts) or not np.isfinite(array).all():
        wanted = "one finite number an attempt" if attempts is None else f"{attempts} finite numbers"
        raise InputError(f"has shape {array.shape}, or values that are not finite", field=name, remedy=f"Give {wanted}")
    return array


def outcomes(cost: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Costs of attempts, and whether each was correct (above 0)."""
    costs = values("cost", cost)
    return costs, values("correct", np.asarray(correct, np.float64), len(costs)) > 0


def problems_of(
    problems: Sequence[Hashable] | npt.ArrayLike | None, attempts: int
) -> tuple[npt.NDArray[np.int64], int]:
    """The number of each attempt's problem, and how many there are."""
    if problems is None:
        return np.zeros(attempts, np.int64), int(attempts > 0)
    numbers = numbers_of("problems", problems, attempts)
    return numbers, int(numbers.max(initial=-1)) + 1
