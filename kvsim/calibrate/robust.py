"""Robust fits of positive parameters to positive times, with held-out groups and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from ..errors import MissingExtraError
from .resampling import fits_to

Array = npt.NDArray[np.float64]
Model = Callable[[Mapping[str, float]], Array]

SMALLEST = 1e-12
"""Stands in for a lower bound of zero, because parameters are fitted as logarithms."""

SCALE = 0.1
"""Relative error beyond which a point's pull grows only linearly (soft L1)."""

RESAMPLES = 16
HELD_OUT = 5
"""Every fifth group is held out."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: where the search starts, its bounds, and how many powers of e it may stray from its
    start before that costs as much as one point off by ``SCALE`` (infinite: the start does not matter)."""

    start: float
    low: float
    high: float
    leash: float = float("inf")


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted values, their 90 % bootstrap intervals over groups, log(measured / predicted) of both parts.

    ``apart`` has, by group, the values that were found without it, where each was left out in turn.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    fitted: Array
    held_out: Array
    apart: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far predictions lie from ``n`` measurements, as fractions; ``bias`` is the median signed error."""

    n: int
    median: float
    mape: float
    bias: float

    @classmethod
    def of(cls, log_errors: Array) -> Accuracy:
        """From log(measured / predicted)."""
        if not len(log_errors):
            return cls(0, float("nan"), float("nan"), float("nan"))
        errors = np.expm1(-log_errors)
        size = np.abs(errors)
        return cls(len(errors), float(np.median(size)), float(size.mean()), float(np.median(errors)))


def held_out_groups(groups: npt.NDArray[Any], turn: int = HELD_OUT - 1) -> npt.NDArray[np.bool_]:
    """True for the rows of every fifth group, in an order that does not depend on what the names mean."""
    names = sorted(set(groups.tolist()), key=lambda name: crc32(str(name).encode()))
    chosen = set(names[turn::HELD_OUT])
    return np.array([name in chosen for name in groups.tolist()], dtype=bool)


def fit(
    model: Callable[[Mapping[str, float], npt.NDArray[np.intp]], Array],
    measured: Array,
    groups: npt.NDArray[Any],
    parameters: Mapping[str, Parameter],
    *,
    weights: Array | None = None,
    cross_validate: bool = False,
    leave_one_out: bool = False,
    resamples: int = RESAMPLES,
) -> Fit:
    """Fit ``model(values, rows)`` to ``measured[rows]`` by log error.

    Whole groups are held out and resampled, so that neither the held-out error nor an interval profits from
    near copies of a row. Every fifth group is held out; or, to ``cross_validate`` few points, each fifth of
    the groups in turn, and the values come from all; or, to ``leave_one_out``, each group. ``weights`` count a row's
    squared error. Intervals come from ``resamples`` draws of groups; without any they are the values.
    """
    everything = np.arange(len(measured))
    weights = np.ones(len(measured)) if weights is None else weights

    def errors(values: Mapping[str, float], rows: npt.NDArray[np.intp]) -> Array:
        return np.asarray(np.log(measured[rows] / model(values, rows)))

    apart: dict[str, dict[str, float]] = {}
    if leave_one_out:
        train = everything
        best = _minimise(errors, train, weights, parameters)
        names = sorted(set(groups.tolist()))
        held_out = np.full(len(measured), np.nan)
        for name in names if len(names) > 1 else ():
            held = groups == name
            apart[name] = _minimise(errors, everything[~held], weights, parameters, best)
            held_out[held] = errors(apart[name], everything[held])
        held_out = held_out[~np.isnan(held_out)]
    elif cross_validate:
        train = everything
        best = _minimise(errors, train, weights, parameters)
        unseen = []
        for turn in range(HELD_OUT):
            held = held_out_groups(groups, turn)
            if held.any() and not held.all():
                others = _minimise(errors, everything[~held], weights, parameters, best)
                unseen.append(errors(others, everything[held]))
        held_out = np.concatenate(unseen) if unseen else np.array([])
    else:
        held = held_out_groups(groups)
        train = everything[~held]
        best = _minimise(errors, train, weights, parameters)
        held_out = errors(best, everything[held])

    names = sorted(set(groups[train].tolist()))
    members = {name: train[groups[train] == name] for name in names}
    random = np.random.default_rng(len(measured))
    draws = [
        np.concatenate([members[names[i]] for i in random.integers(len(names), size=len(names))])
        for _ in range(resamples)
    ]
    samples = fits_to(draws, lambda drawn: _minimise(errors, drawn, weights, parameters, best))
    intervals = {name: interval(best[name], [values[name] for values in samples]) for name in parameters}
    return Fit(best, intervals, errors(best, train), held_out, apart)


def fit_all(
    model: Callable[[Mapping[str, float], npt.NDArray[np.intp]], Array],
    measured: Array,
    parameters: Mapping[str, Parameter],
    weights: Array,
) -> dict[str, float]:
    """The values that :func:`fit` finds in all rows, without intervals or held-out rows."""

    def errors(values: Mapping[str, float], rows: npt.NDArray[np.intp]) -> Array:
        return np.asarray(np.log(measured[rows] / model(values, rows)))

    return _minimise(errors, np.arange(len(measured)), weights, parameters)


def next_group(errors: Iterable[Array]) -> tuple[float, float, float]:
    """Where 90 % of a new group's errors are expected from those of others, and their middle: quantiles (5, 50, 95 %)
    of all errors, every group weighing the same, however many points it has."""
    parts = [part for part in errors if len(part)]
    values = np.concatenate(parts)
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in parts])
    order = np.argsort(values, kind="stable")
    below = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    low, middle, high = np.interp([0.05, 0.5, 0.95], below, values[order])
    return float(low), float(middle), float(high)


def interval(value: float, samples: Sequence[float]) -> tuple[float, float]:
    """The 5 % and 95 % quantile of resampled values, stretched to contain the value itself."""
    if not len(samples):
        return value, value
    low, high = np.quantile(samples, [0.05, 0.95])
    return min(value, float(low)), max(value, float(high))


def _minimise(
    errors: Callable[[Mapping[str, float], npt.NDArray[np.intp]], Array],
    rows: npt.NDArray[np.intp],
    weights: Array,
    parameters: Mapping[str, Parameter],
    near: Mapping[str, float] | None = None,
) -> dict[str, float]:
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingExtraError("scipy", "fit", "fitting a calibration") from None
    low = np.log([max(part.low, SMALLEST) for part in parameters.values()])
    high = np.log([part.high for part in parameters.values()])
    centre = np.log([max(part.start, SMALLEST) for part in parameters.values()])
    begin = centre if near is None else np.log([near[name] for name in parameters])
    leash = np.array([part.leash for part in parameters.values()])
    root = np.sqrt(weights[rows])

    def residuals(logs: Array) -> Array:
        values = dict(zip(parameters, np.exp(logs).tolist(), strict=True))
        # soft L1 by hand: its square root is what least squares needs, so that weights scale whole points
        error = errors(values, rows) / SCALE
        pulls = root * np.sign(error) * np.sqrt(2 * (np.sqrt(1 + error**2) - 1))
        return np.concatenate([pulls, (logs - centre) / leash])

    begin = np.clip(begin, low + 1e-6, high - 1e-6)
    found = least_squares(residuals, begin, bounds=(low, high), xtol=1e-7, ftol=1e-7, max_nfev=200)
    return dict(zip(parameters, np.exp(found.x).tolist(), strict=True))
