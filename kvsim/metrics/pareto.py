"""The Pareto front of quality against cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvsim.metrics._runs import values


def pareto_front(cost: npt.ArrayLike, quality: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Numbers of the runs that no other beats, the cheapest first.

    A run is beaten by one that costs no more and is no worse, and is better in one of both; of runs equal in both
    the first stays.
    """
    costs = values("cost", cost)
    qualities = values("quality", quality, len(costs))
    order = np.lexsort((np.arange(len(costs)), -qualities, costs))
    best = np.maximum.accumulate(qualities[order])
    leads = np.ones(len(order), bool)
    leads[1:] = qualities[order][1:] > best[:-1]
    return order[leads]
