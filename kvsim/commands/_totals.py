"""Sums over trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.commands._columns import Columns, trajectory_columns

if TYPE_CHECKING:
    from kvsim.calibration import Calibration
    from kvsim.estimation import Estimate

Mask = npt.NDArray[np.bool_]

SUMMED = (
    "turns",
    "prompt_tokens",
    "new_tokens",
    "output_tokens",
    "cached_tokens",
    "recomputed_tokens",
    "latency_s",
    "model_s",
    "queue_s",
    "fresh_prefill_s",
    "recompute_s",
    "decode_s",
    "pause_s",
    "gpu_s",
    "kv_byte_s",
    "usd",
    "joules",
)


def sums(columns: Columns, among: Mask) -> dict[str, float]:
    """How many trajectories those are, and the sums of their columns: of :data:`SUMMED` those that there are."""
    result: dict[str, float] = {"trajectories": int(among.sum())}
    return result | {name: columns[name][among].sum().item() for name in SUMMED if name in columns}


def totals(estimate: Estimate, among: Mask | None = None) -> dict[str, float]:
    """Sums over the trajectories that could be priced, or those of ``among``; and the interval of ``model_s``."""
    chosen = estimate.priced if among is None else among
    columns = trajectory_columns(estimate)
    result = sums(columns, chosen)
    for bound in ("low", "high"):
        result[f"model_s_{bound}"] = _bound(estimate.pricing.calibration, result, bound)
    return result


def _bound(calibration: Calibration, sums: dict[str, float], bound: str) -> float:
    """Model time if every step erred like the 5 % or 95 % quantile of held-out points."""
    quantile = {"low": "q05", "high": "q95"}[bound]
    prefill, decode = (exp(getattr(calibration.residuals[regime], quantile)) for regime in ("prefill", "decode"))
    return float((sums["fresh_prefill_s"] + sums["recompute_s"]) * prefill + sums["decode_s"] * decode)


def priced_by_all(estimates: Sequence[Estimate]) -> Mask:
    """The trajectories that every one of the estimates could price."""
    among: Mask = np.logical_and.reduce([estimate.priced for estimate in estimates])
    return among
