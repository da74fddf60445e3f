"""Which turns of a trajectory can be drawn on one line: none of a lane's overlap in time."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.report.spans import Spans
    from kvsim.trajectory import Batch


class Lanes(NamedTuple):
    """Lines to draw turns on, each of one trajectory on one engine, numbered engine by engine."""

    of_turn: Ints
    """The lane of every turn, shape (rows,)."""
    replica: list[int]
    trajectory: list[int]
    branch: list[int]
    """Which of its trajectory's lanes on that engine it is, from 0: others where turns run at the same time."""
    previous: Ints
    """The row before every turn on its lane, -1 none, shape (rows,)."""


def lanes_of(batch: Batch, spans: Spans) -> Lanes:
    """Every turn, with its pause, on the lane of the turn that it came after if that is free, else where it may be."""
    order = np.lexsort((np.arange(batch.turns), spans.released, spans.paused, batch.trajectory, spans.replica))
    paused, finished = spans.paused.tolist(), spans.finished.tolist()
    trajectory, replica, after = batch.trajectory.tolist(), spans.replica.tolist(), batch.after.tolist()
    of_turn, previous = [-1] * batch.turns, [-1] * batch.turns
    last: list[int] = []  # the last row on each lane
    owners: list[tuple[int, int]] = []
    branches: list[int] = []
    first = 0  # of the lanes of the trajectory at hand
    ends: list[tuple[int, int]] = []  # a heap of when its lanes end; older ends of a lane stay in it
    for row in order.tolist():
        owner = (replica[row], trajectory[row])
        if not owners or owners[-1] != owner:
            first, ends = len(owners), []
        lane = of_turn[after[row]] if after[row] >= 0 else -1
        if lane < first or finished[last[lane]] > paused[row]:
            while ends and finished[last[ends[0][1]]] != ends[0][0]:
                heappop(ends)
            lane = ends[0][1] if ends and ends[0][0] <= paused[row] else len(last)
        if lane == len(last):
            last.append(row)
            owners.append(owner)
            branches.append(lane - first)
        else:
            previous[row] = last[lane]
            last[lane] = row
        of_turn[row] = lane
        heappush(ends, (finished[row], lane))
    return Lanes(
        np.array(of_turn, np.int64),
        [replica for replica, _ in owners],
        [trajectory for _, trajectory in owners],
        branches,
        np.array(previous, np.int64),
    )
