"""Scores and costs to rewards, in the one way that all adapters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError

Floats = npt.NDArray[np.float64]

#: From scores and costs, each of shape (rollouts,), to rewards: one of :mod:`kvsim.reward.shapes`, or of one's own.
Combine = Callable[[Floats, Floats], npt.ArrayLike]


def rewarded(scores: Sequence[Any], costs: Floats, weight: float, combine: Combine | None) -> tuple[Floats, Floats]:
    """The scores as numbers, and the rewards: scores less ``weight`` times costs, or what ``combine`` makes of them."""
    known = np.array(scores, np.float64)
    if not np.isfinite(known).all():
        at = int(np.flatnonzero(~np.isfinite(known))[0])
        raise InputError(f"gave {scores[at]!r} for rollout {at}", field="quality", remedy="Give every rollout a number")
    return known, np.asarray(combine(known, costs) if combine is not None else known - weight * costs, np.float64)
