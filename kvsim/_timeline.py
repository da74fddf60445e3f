"""A simulation over time: means over bins of equal length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.backends.engine_kernels import Served, Timeline
from kvsim.result import Table

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints

Bools = npt.NDArray[np.bool_]


def timeline_table(timeline: Timeline, served: Served, prompt_tokens: Ints, counted: Bools, blocks: int) -> Table:
    """Rows replica by replica, bin by bin. ``counted`` (rows,) are the turns that were served."""
    bin_ns, (replicas, bins) = timeline.bin_ns, timeline.level.shape
    place = np.where(counted, served.replica, 0)

    def mean_between(start_ns: Ints, end_ns: Ints) -> npt.NDArray[np.float64]:
        """How many turns are in that state, on average over each bin."""
        level, partial = np.zeros((replicas, bins + 1), np.int64), np.zeros((replicas, bins), np.int64)
        for at_ns, sign in ((start_ns[counted], 1), (end_ns[counted], -1)):
            at = at_ns // bin_ns
            np.add.at(partial, (place[counted], at), sign * ((at + 1) * bin_ns - at_ns))
            np.add.at(level, (place[counted], at + 1), sign)
        mean: npt.NDArray[np.float64] = (partial + bin_ns * level[:, :-1].cumsum(axis=1)) / bin_ns
        return mean.ravel()

    def hit_rate() -> npt.NDArray[np.float64]:
        sums = np.zeros((2, replicas, bins), np.int64)
        at = served.scheduled_ns[counted] // bin_ns
        np.add.at(sums[0], (place[counted], at), served.cached_tokens[counted])
        np.add.at(sums[1], (place[counted], at), prompt_tokens[counted])
        return np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1), np.nan).ravel()

    used_ns = timeline.partial + bin_ns * timeline.level.cumsum(axis=1)
    return Table(
        replicas * bins,
        {
            "replica": lambda: np.repeat(np.arange(replicas), bins),
            "time_s": lambda: np.tile(np.arange(bins) * bin_ns, replicas) / 1e9,
            "kv_use": lambda: (used_ns / (bin_ns * blocks)).ravel(),
            "running": lambda: mean_between(served.scheduled_ns, served.finish_ns),
            "waiting": lambda: mean_between(served.release_ns, served.scheduled_ns),
            "hit_rate": hit_rate,
        },
    )
