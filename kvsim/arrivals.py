"""Patterns of arrivals by name: when the trajectories of a batch start."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kvsim.backends.workload import Starts, batch_starts, closed_starts, poisson_starts
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.trajectory import Batch

KNOWN = '"logged", "poisson:2.0" (starts a second), "closed:64" (in flight) or "batch:64" (at a time)'


def starts_of(batch: Batch, arrivals: str, seed: int = 0, stagger_s: float = 0.0) -> Starts:
    """When trajectories start.

    ``logged``: each turn that waits for nobody comes at its ``arrival_ns``. ``poisson:R``: R trajectory starts a
    second, from ``seed``. ``closed:N``: N trajectories in flight, tool pauses included; when one ends the next in
    file order starts. ``batch:N``: N at a time; when the slowest of them ends the next N start. The first N of the
    last two start ``stagger_s`` apart.
    """
    kind, _, given = arrivals.partition(":")
    if not (math.isfinite(stagger_s) and stagger_s >= 0):
        raise InputError(f"{stagger_s!r} seconds between starts", field="stagger_s", remedy="Use 0 or more")
    if stagger_s and kind not in ("closed", "batch"):
        raise InputError(f"{arrivals!r} starts cannot be staggered", field="stagger_s", remedy='Use "closed:N"')
    if kind == "logged" and not given:
        if len(batch) > 1 and not batch.arrival_ns.any():
            raise InputError(
                "the batch has no arrival times",
                field="arrivals",
                remedy='Use "poisson:R" (starts a second) or "closed:N" (trajectories in flight)',
            )
        return Starts()
    stagger_ns = round(stagger_s * 1e9)
    try:
        if kind == "poisson" and 0 < float(given) < math.inf:
            return poisson_starts(len(batch), float(given), seed)
        if kind == "closed" and int(given) > 0:
            return closed_starts(len(batch), int(given), stagger_ns)
        if kind == "batch" and int(given) > 0:
            return batch_starts(len(batch), int(given), stagger_ns)
    except ValueError:
        pass
    raise InputError(f"{arrivals!r} is no pattern of arrivals", field="arrivals", remedy=f"Use {KNOWN}")
