"""What a page is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.estimation import Estimate
    from kvsim.insight import Advice, Attribution, Transcripts
    from kvsim.result import Table
    from kvsim.simulation import Simulation


@dataclass(frozen=True)
class Cliff:
    """What more trajectories in flight do to reuse: one value of each column a simulation, by number in flight.

    ``reuse_share``: of the tokens that had been cached, those that were still there when they were needed (None: there
    were none). ``turn_s``: mean time of a turn, queue included. ``collapses_at``: the least number in flight at which
    less than half was reused, ``fastest``: the one with the most turns a second; None where there is none.
    """

    in_flight: Sequence[int]
    reuse_share: Sequence[float | None]
    turns_per_s: Sequence[float]
    turn_s: Sequence[float]
    collapses_at: int | None
    fastest: int | None


@dataclass(frozen=True)
class Survival:
    """What prices come to if KV survives pauses of up to ``ttl_s`` and no longer: seconds over all trajectories."""

    ttl_s: Sequence[float]
    model_s: Sequence[float]
    recompute_s: Sequence[float]


@dataclass(frozen=True)
class Page:
    """Everything that a page shows.

    facts: labelled lines: what was read, what it was priced with, under which load, on what evidence.
    how: the load or the traffic in words. warnings: what needs attention.
    transcripts: what was said, where the logs carry text. timeline: that of the simulation. cliff_absent: why there
    is no ``cliff``.
    """

    result: Estimate | Simulation
    attribution: Attribution
    advice: Advice
    facts: Sequence[tuple[str, Sequence[str]]]
    how: str
    transcripts: Transcripts | None = None
    warnings: Sequence[str] = ()
    timeline: Table | None = None
    cliff: Cliff | None = None
    cliff_absent: str = ""
    survival: Survival | None = None
