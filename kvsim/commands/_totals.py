"""Sums over trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kvsim.columns import Mask, summed_columns, sums

if TYPE_CHECKING:
    from kvsim.estimation import Estimate

BOUNDED = ("latency_s", "model_s", "fresh_prefill_s", "recompute_s", "decode_s", "gpu_s", "kv_byte_s", "usd")
"""The sums whose intervals are told."""


def totals(estimate: Estimate, among: Mask | None = None) -> dict[str, float]:
    """Sums over the trajectories that could be priced, or those of ``among``."""
    return sums(summed_columns(estimate), estimate.priced if among is None else among)


def interval_totals(estimate: Estimate, among: Mask | None = None) -> dict[str, dict[str, float]]:
    """The ends of the 90 % intervals of sums, by name."""
    low, high = (totals(end, among) for end in (estimate.interval.low, estimate.interval.high))
    return {name: {"low": low[name], "high": high[name]} for name in BOUNDED}


def priced_by_all(estimates: Sequence[Estimate]) -> Mask:
    """The trajectories that every one of the estimates could price."""
    among: Mask = np.logical_and.reduce([estimate.priced for estimate in estimates])
    return among
