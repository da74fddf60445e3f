"""The eviction cliff: how many trajectories in flight it takes until their contexts push each other out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvsim.commands.sweep._points import Point
from kvsim.commands.sweep._rows import OK, Row

COLLAPSED = 0.5
"""Reuse has collapsed where less than this share of what had been cached is still there when it is needed."""

GONE = 0.1
"""Well past the cliff: where less than this is reused, more in flight tell nothing new."""


def closed(in_flight: int) -> str:
    """That many trajectories in flight, as a pattern of arrivals."""
    return f"closed:{in_flight}"


def in_flight(row: Row | Point) -> int:
    """The number of a row with such arrivals."""
    arrivals = row.arrivals if isinstance(row, Point) else row["arrivals"]
    return int(arrivals.partition(":")[2])


def search(base: Point, trajectories: int) -> Generator[Point, Row, None]:
    """1, 2, 4, ... in flight up to all trajectories or until reuse is gone, then halving to where it collapsed."""
    number, holds, collapsed = 1, 0, 0
    while True:
        row = yield replace(base, arrivals=closed(number))
        if row["status"] != OK:
            return
        if has_collapsed(row):
            collapsed = collapsed or number
        elif not collapsed:
            holds = number
        if number == trajectories or _reuse(row) < GONE:
            break
        number = min(2 * number, trajectories)
    while collapsed - holds > 1:
        row = yield replace(base, arrivals=closed(middle := (holds + collapsed) // 2))
        if has_collapsed(row):
            collapsed = middle
        else:
            holds = middle


def has_collapsed(row: Row) -> bool:
    """Whether most of what had been cached was evicted before its use."""
    return _reuse(row) < COLLAPSED


def _reuse(row: Row) -> float:
    """1 where there was nothing to reuse."""
    return 1.0 if row["reuse_share"] is None else float(row["reuse_share"])


@dataclass(frozen=True)
class Cliff:
    """Where reuse collapses on one deployment; ``point`` has no arrivals of its own.

    ``collapses_at`` is the least number in flight, of those simulated, at which it has collapsed; None where it never
    has. ``fastest`` is the number with the most turns a second.
    """

    point: Point
    collapses_at: int | None
    fastest: int
    reuse_share_at_least_in_flight: float | None
    reuse_share_at_most_in_flight: float | None
    least_in_flight: int
    most_in_flight: int

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"point": {**asdict(self.point), "arrivals": None}}


def cliff_of(point: Point, rows: Sequence[Row]) -> Cliff | None:
    """The cliff among the rows of a deployment; None where none of them was simulated."""
    found = sorted((row for row in rows if row["status"] == OK), key=in_flight)
    if not found:
        return None
    return Cliff(
        point,
        next((in_flight(row) for row in found if has_collapsed(row)), None),
        in_flight(max(found, key=lambda row: float(row["turns_per_s"]))),
        found[0]["reuse_share"],
        found[-1]["reuse_share"],
        in_flight(found[0]),
        in_flight(found[-1]),
    )
