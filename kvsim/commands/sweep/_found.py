"""What a sweep found: its rows, what its prices rest on, what a preset says, and what needs attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvsim.commands._format import count
from kvsim.commands._reading_facts import read_warnings
from kvsim.commands.sweep._points import AXES, Point
from kvsim.commands.sweep._rows import OK

if TYPE_CHECKING:
    from kvsim.commands.sweep._break_even import BreakEven
    from kvsim.commands.sweep._cliff import Cliff
    from kvsim.commands.sweep._rows import Row
    from kvsim.commands.sweep._serving import Server
    from kvsim.pricing import Pricing


@dataclass
class Found:
    """Rows in order; findings of presets by deployment."""

    rows: list[Row] = field(default_factory=list)
    cliffs: list[Cliff] = field(default_factory=list)
    break_evens: list[BreakEven] = field(default_factory=list)


def point_of(row: Row) -> Point:
    """Where a row stands."""
    return Point(**{axis: row[axis] for axis in AXES})


def pricings(server: Server, rows: Sequence[Row]) -> dict[tuple[str, str], Pricing]:
    """What prices rest on, by model and GPU, of those that a point was simulated with."""
    found = {}
    for row in rows:
        key = (row["model"], row["gpu"])
        if row["status"] == OK and key not in found:
            found[key] = server.conditions.pricing(point_of(row))
    return found


def warnings(server: Server, rows: Sequence[Row], priced: Mapping[tuple[str, str], Pricing]) -> list[str]:
    """Of the read, of points that could not be, of turns that were not served, and of the evidence."""
    found = read_warnings(server.batch)
    for reason in dict.fromkeys(row["reason"] for row in rows if row["reason"]):
        number = sum(row["reason"] == reason for row in rows)
        found.append(f"{count(number, 'point')} without a result: {reason}")
    for (model, gpu), pricing in priced.items():
        own = [row for row in rows if (row["model"], row["gpu"], row["status"]) == (model, gpu, OK)]
        if unserved := max(row["over_max"] + row["over_capacity"] for row in own):
            found.append(
                f"{gpu}: up to {count(unserved, 'turn')} of {model} beyond the longest context or the KV cache: not "
                "served, their trajectories left out of sums and distributions"
            )
        reach = {name: max(row[name] for row in own) for name in ("prefilled_tokens", "sequences", "context_tokens")}
        found += [f"{gpu}: beyond the evidence: {sentence}" for sentence in pricing.uncertainty(**reach).sentences]
    return list(dict.fromkeys(found))
