"""Continuum's time to live (arXiv 2511.02230): how long holding a context is worth what it saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.backends.engine_kernels import NO_PLAN, Plan
from kvsim.retention.pauses import context_tokens, extended, gap_ns, prefill_ns, tools

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch

Floats = npt.NDArray[np.float64]


class Continuum:
    """The time t that maximises P(pause <= t) x benefit - t.

    P is that of the tool's pauses in the batch, of all pauses where no tool is named.
    The benefit is the time of recomputing the context, and ``queueing_s`` for the wait that coming back to a cold
    cache costs (the paper's T x eta, which a running system learns from its queue).
    """

    def __init__(self, queueing_s: float = 0.0) -> None:
        self.queueing_s = queueing_s

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        gaps, tool = gap_ns(batch, pricing), tools(batch)
        benefit = prefill_ns(context_tokens(batch), pricing) + self.queueing_s * 1e9
        hold_ns = np.zeros(batch.turns, np.int64)
        children = np.flatnonzero(batch.parent >= 0)
        called = np.full(len(children), -1) if batch.tool is None else batch.tool[children]
        rows = np.flatnonzero(extended(batch))
        for kind in np.unique(called):
            own = rows[tool[rows] == kind]
            alike = children[called == kind] if kind >= 0 else children
            hold_ns[own] = best_times(gaps[alike], benefit[own])
        return NO_PLAN._replace(hold_ns=hold_ns)


def best_times(pauses: Ints, benefit: Floats) -> Ints:
    """For each benefit the t >= 0 that maximises P(pause <= t) x benefit - t, the shortest of equal ones.

    Only 0 and the pauses themselves can be best, and of the points (P(t), t) those on their lower convex hull: the
    best one moves along it as the benefit exceeds one slope after the other.
    """
    times, counts = np.unique(np.append(pauses, 0), return_counts=True)
    counts[0] -= 1  # the 0 that was added
    share = np.cumsum(counts) / len(pauses)
    hull: list[int] = []
    slopes: list[float] = []
    for point in range(len(times)):
        while hull:
            slope = (times[point] - times[hull[-1]]) / (share[point] - share[hull[-1]])
            if not slopes or slope > slopes[-1]:
                slopes.append(slope)
                break
            hull.pop()
            slopes.pop()
        hull.append(point)
    best: Ints = times[hull][np.searchsorted(slopes, benefit, side="left")]
    return best
