"""Bootstrap over clusters: what a figure would have been with other tasks, from a seed, whatever the order of input."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.uncertainty import COVERAGE

Floats = npt.NDArray[np.float64]

RESAMPLES = 2_000
AT_ONCE = 1 << 22
"""Numbers that are drawn at once, at most."""


class Ends(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


def resampled(values: Floats, figure: Callable[[Floats], Floats], *stream: int) -> Floats:
    """The figure of each resample of clusters, shape (:data:`RESAMPLES`,).

    values: shape (clusters, columns); a resample draws as many clusters, with replacement. ``figure`` takes their mean
    columns, shape (resamples, columns). ``stream`` seeds the draws: the same numbers give the same draws.
    """
    clusters = len(values)
    random = np.random.default_rng(np.random.SeedSequence(stream))
    found = []
    done = 0
    while done < RESAMPLES:
        count = min(RESAMPLES - done, max(1, AT_ONCE // (clusters * values.shape[1])))
        drawn = random.integers(0, clusters, (count, clusters))
        found.append(figure(values[drawn].mean(axis=1)))
        done += count
    return np.concatenate(found)


def ends(figures: Floats, coverage: float = COVERAGE) -> Ends | None:
    """The middle ``coverage`` of the figures; None where fewer than half of them exist.

    Ends are figures, not means of two: those of negated figures are the negated ends.
    """
    known = np.sort(figures[~np.isnan(figures)])
    if 2 * len(known) < len(figures) or not len(known):
        return None
    left_out = int(len(known) * (1 - coverage) / 2)
    return Ends(float(known[left_out]), float(known[len(known) - 1 - left_out]))
