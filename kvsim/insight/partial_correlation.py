"""Pearson's correlation, and the same with a third quantity held fixed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.insight.resampling import Ends, ends, resampled

Floats = npt.NDArray[np.float64]

FEWEST = 4
"""Observations that a correlation takes; with fewer it has no interval at all."""

CONSTANT = 1e-12
"""A variance below this share of the squares' mean is none; so is what is left of one that another determines."""


class Correlation(NamedTuple):
    """A correlation over ``n`` observations in ``clusters``; ``why`` says why it has no value, or no interval."""

    value: float | None
    interval: Ends | None
    n: int
    clusters: int
    why: str = ""


def correlation(
    one: Floats, other: Floats, clusters: npt.NDArray[np.int64], *stream: int, given: Floats | None = None
) -> Correlation:
    """Pearson's r of two quantities, shape (n,); with ``given`` the partial r, that quantity held fixed.

    r_12.3 = (r_12 - r_13 r_23) / sqrt((1 - r_13^2) (1 - r_23^2)). The interval is a bootstrap over clusters, numbered
    from 0. Where a quantity is constant there is no correlation; a constant ``given`` leaves r as it is.
    """
    n, count = len(one), len(np.unique(clusters))
    if n < FEWEST:
        return Correlation(None, None, n, count, f"{n} rollouts are too few")
    constant = [name for name, values in (("cost", one), ("success", other)) if _is_constant(values)]
    if constant:
        return Correlation(None, None, n, count, f"{' and '.join(constant)} the same everywhere")
    quantities = [one, other] if given is None or _is_constant(given) else [one, other, given]
    # Centred and scaled, so that sums of squares lose nothing.
    scaled = [(values - values.mean()) / values.std() for values in quantities]
    columns = [np.ones(n), *scaled]
    columns += [scaled[i] * scaled[j] for i in range(len(scaled)) for j in range(i, len(scaled))]
    sums = np.zeros((count, len(columns)))
    np.add.at(sums, np.unique(clusters, return_inverse=True)[1], np.stack(columns, axis=1))
    value = float(_r(sums.mean(axis=0)[None], len(scaled))[0])
    if np.isnan(value):
        return Correlation(None, None, n, count, "difficulty determines one of them")
    if count < 2:
        return Correlation(value, None, n, count, "one task has no interval")
    interval = ends(resampled(sums, lambda means: _r(means, len(scaled)), *stream))
    return Correlation(value, interval, n, count, "" if interval else "most resamples are the same everywhere")


def _is_constant(values: Floats) -> bool:
    return bool(np.ptp(values) ** 2 <= CONSTANT * float(np.mean(values**2)))


def _r(means: Floats, quantities: int) -> Floats:
    """r, or partial r, from mean sums: count, quantities, products; NaN where there is none."""
    count = means[:, :1]
    mean = means[:, 1 : 1 + quantities] / count
    second = means[:, 1 + quantities :] / count
    at = {}
    pairs = [(i, j) for i in range(quantities) for j in range(i, quantities)]
    for column, (i, j) in enumerate(pairs):
        at[i, j] = second[:, column] - mean[:, i] * mean[:, j]
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = [np.where(at[i, i] > CONSTANT, np.sqrt(np.maximum(at[i, i], 0)), np.nan) for i in range(quantities)]
        r = {(i, j): at[i, j] / (spread[i] * spread[j]) for i, j in pairs if i < j}
        if quantities == 2:
            return np.asarray(np.clip(r[0, 1], -1, 1))
        left = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
        # A third quantity that does not vary in a resample holds nothing fixed there.
        partial = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(np.where(left > CONSTANT, left, np.nan))
        return np.asarray(np.clip(np.where(np.isnan(spread[2]), r[0, 1], partial), -1, 1))
