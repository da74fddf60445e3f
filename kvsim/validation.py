"""How predictions of the shipped calibrations compare with measured serving points: ``kvsim validate``.

The points and their predictions ship as ``profiles/validation.csv.gz``; ``python -m kvsim.calibrate.fit`` writes them.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ._profiles import profiles
from .errors import InputError

Floats = npt.NDArray[np.float64]

COLUMNS = (
    "gpu",
    "source",
    "engine",
    "generation",
    "model",
    "quantization",
    "cache",
    "path",
    "tensor_parallel",
    "expert_parallel",
    "measure",
    "regime",
    "prompt_tokens",
    "output_tokens",
    "concurrency",
    "measured_s",
    "fitted_s",
    "held_out_s",
    "low_s",
    "high_s",
)
"""One row a measured value. ``path``: what takes a deployment another way than the law prices (its points are shown
apart and not fitted). ``low_s`` to ``high_s``: where other models' errors would put 90 % of the measured times."""

NUMBERS = frozenset(COLUMNS[COLUMNS.index("tensor_parallel") :]) - {"measure", "regime"}
GROUPS = ("gpu", "model", "generation", "engine", "regime", "measure", "source", "quantization", "path")
"""Columns that points can be grouped by."""

Point = dict[str, "str | float"]


class Accuracy(NamedTuple):
    """How far predictions lie from ``n`` measured times, as fractions: medians and means of |error|, the median signed
    error, the 90 % quantile of |error|, and the share of times within their interval (NaN without intervals)."""

    n: int
    median: float
    mape: float
    bias: float
    p90: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Line:
    """A group of points, by fitted and by held-out predictions."""

    group: tuple[str, ...]
    fitted: Accuracy
    held_out: Accuracy


def shipped_points() -> list[Point]:
    """The points that ship with kvsim."""
    packed = profiles().joinpath("validation.csv.gz").read_bytes()
    return [
        {name: float(value) if name in NUMBERS else value for name, value in row.items()}
        for row in csv.DictReader(gzip.decompress(packed).decode().splitlines())
    ]


def accuracy(points: Sequence[Point], predicted: str) -> Accuracy:
    """How far a column of predictions lies from the measured times."""
    if not points:
        return Accuracy(0, *[float("nan")] * 5)
    measured, found, low, high = (
        np.array([float(point[name]) for point in points]) for name in ("measured_s", predicted, "low_s", "high_s")
    )
    error = found / measured - 1
    size, known = np.abs(error), np.isfinite(low)
    within = (low <= measured) & (measured <= high)
    return Accuracy(
        len(points),
        float(np.median(size)),
        float(size.mean()),
        float(np.median(error)),
        float(np.quantile(size, 0.9)),
        float(within[known].mean()) if known.any() and predicted == "held_out_s" else float("nan"),
    )


def summary(points: Iterable[Point], by: Sequence[str] = ("gpu", "regime")) -> list[Line]:
    """The points' accuracy by group, groups in the order of their names.

    Raises :class:`InputError` for a column that points cannot be grouped by.
    """
    for name in by:
        if name not in GROUPS:
            raise InputError(f"points cannot be grouped by {name!r}", field="by", remedy=f"Use {', '.join(GROUPS)}")
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(str(point[name]) for name in by), []).append(point)
    return [Line(key, accuracy(its, "fitted_s"), accuracy(its, "held_out_s")) for key, its in sorted(groups.items())]
