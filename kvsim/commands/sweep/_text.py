"""A sweep as text for people: a row a point, and what a preset found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from kvsim.commands._console import print_facts, table
from kvsim.commands._evidence import basis, interval
from kvsim.commands._format import count, duration, money, narrow, percent, plain, shorten
from kvsim.commands._reading_facts import read_facts
from kvsim.commands.sweep._break_even import BreakEven, Stretch, mean_model_s
from kvsim.commands.sweep._cliff import Cliff
from kvsim.commands.sweep._points import AXES
from kvsim.commands.sweep._rows import OK, Row

if TYPE_CHECKING:
    from kvsim.commands.sweep._found import Found
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch

Show = Callable[[Any], str]

_AXES: Mapping[str, tuple[str, Show]] = {
    "model": ("model", lambda name: shorten(name, 20)),
    "gpu": ("GPU", str),
    "num_gpu_blocks_override": ("blocks", count),
    "replicas": ("replicas", count),
    "router": ("router", str),
    "retention": ("retention", str),
    "pause_scale": ("pauses", lambda factor: f"x {factor:g}"),
    "arrivals": ("arrivals", str),
}
"""Heading of each axis, and how its values are shown."""

_FIGURES: Sequence[tuple[str, str, Show]] = (
    ("hit\nrate", "hit_rate", percent),
    ("recom-\npute", "recompute_share", percent),
    ("TTFT\np50", "ttft_s_p50", narrow),
    ("TTFT\np90", "ttft_s_p90", narrow),
    ("E2E\np50", "e2e_s_p50", narrow),
    ("E2E\np90", "e2e_s_p90", narrow),
    ("turns/s", "turns_per_s", plain),
    ("USD", "usd", money),
)
"""Those in front have room first."""

LEAST_FIGURES = 3
_UNSAID: Mapping[str, Any] = {"replicas": 1, "router": "round-robin", "pause_scale": 1.0}
NAMES = ("model", "gpu", "router", "retention", "arrivals")


def show(console: Console, batch: Batch, found: Found, pricings: Mapping[tuple[str, str], Pricing]) -> None:
    """Print what was read and what prices rest on, a row a point, and what a preset found."""
    print_facts(
        console,
        [
            ("Read", read_facts(batch)),
            ("All with", [_place(found.rows[0], [axis for axis in AXES if axis not in _varying(found.rows)])]),
            ("Evidence", list(dict.fromkeys(map(_sureness, pricings.values())))),
        ],
    )
    if found.break_evens:
        for one in found.break_evens:
            _print_break_even(console, one, found)
        return
    console.print()
    _print_rows(console, found.rows)
    places = _varying([asdict(cliff.point) for cliff in found.cliffs])
    for cliff in found.cliffs:
        console.print()
        where = [f"{_place(asdict(cliff.point), places)}:"] if places else []
        print_facts(console, [("Result", [*where, *_cliff_lines(cliff)])])


def _varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The axes along which the rows differ."""
    return [axis for axis in AXES if len({row[axis] for row in rows}) > 1]


def _place(row: Mapping[str, Any], axes: Sequence[str]) -> str:
    """The values of some axes in words; what is left to the defaults goes unsaid."""
    known = [(axis, row[axis]) for axis in axes if row[axis] not in (None, _UNSAID.get(axis))]
    return ", ".join(str(value) if axis in ("model", "gpu") else _named(axis, value) for axis, value in known)


def _named(axis: str, value: Any) -> str:
    heading, shown = _AXES[axis]
    return f"{heading} {shown(value)}"


def _sureness(pricing: Pricing) -> str:
    residuals = pricing.calibration.residuals
    off = ", ".join(f"{interval(residual)} in {regime}" for regime, residual in residuals.items())
    return f"{pricing.gpu.id}: {basis(pricing.calibration)}; {off}"


def _print_rows(console: Console, rows: Sequence[Row]) -> None:
    """The axes that vary, then as many figures as the console has room for."""
    varying = _varying(rows) or ["gpu"]
    columns = [(axis, *_AXES[axis]) for axis in varying]
    if "arrivals" in varying and all(row["arrivals"].startswith("closed:") for row in rows):
        columns[-1] = ("arrivals", "in\nflight", lambda arrivals: count(int(arrivals.partition(":")[2])))
    if any(row["status"] != OK for row in rows):
        columns.append(("status", "", lambda status: "" if status == OK else status.replace("_", " ")))
    axes = len(columns)
    columns += [(name, heading, render) for heading, name, render in _FIGURES]
    cells = [[_cell(row[name], render) for name, _, render in columns] for row in rows]
    widths = [
        max(map(len, [*heading.split("\n"), *(line[number] for line in cells)]))
        for number, (_, heading, _) in enumerate(columns)
    ]
    shown, gap = _room(widths, console.width, least=axes + LEAST_FIGURES)
    found = table(gap=gap)
    for name, heading, _ in columns[:shown]:
        named = name in (*NAMES, "status") and heading != "in\nflight"
        found.add_column(heading, justify="left" if named else "right", no_wrap=True)
    for line in cells:
        found.add_row(*map(Text, line[:shown]))
    console.print(found)


def _room(widths: Sequence[int], width: int, *, least: int) -> tuple[int, int]:
    """How many columns are shown, and with which gap: all if a narrow gap makes room for them."""
    for shown in range(len(widths), least, -1):
        for gap in (2, 1):
            if sum(widths[:shown]) + gap * (shown - 1) <= width:
                return shown, gap
    return least, 1


def _cell(value: Any, render: Show) -> str:
    return "-" if value is None else render(value)


def _cliff_lines(cliff: Cliff) -> list[str]:
    """Where reuse collapses, in words."""
    where = "does not collapse" if cliff.collapses_at is None else f"collapses at {cliff.collapses_at} in flight"
    first, last = (
        _cell(share, percent) for share in (cliff.reuse_share_at_least_in_flight, cliff.reuse_share_at_most_in_flight)
    )
    reuse = f"with {cliff.least_in_flight} in flight {first} were still there, with {cliff.most_in_flight} {last}"
    return [
        f"reuse {where}",
        f"of the tokens that had been cached, {reuse}",
        f"most turns/s with {cliff.fastest} in flight",
    ]


def _print_break_even(console: Console, one: BreakEven, found: Found) -> None:
    places = _varying([asdict(other.point) for other in found.break_evens])
    if places:
        console.print(f"\n{_place(asdict(one.point), places)}", style="bold")
    rows = [row for row in found.rows if all(row[axis] == getattr(one.point, axis) for axis in _FREE)]
    console.print()
    _print_pauses(console, rows)
    console.print()
    print_facts(console, [("Result", _break_even_lines(one))])


_FREE = [axis for axis in AXES if axis not in ("retention", "pause_scale")]


def _print_pauses(console: Console, rows: Sequence[Row]) -> None:
    """A row a pause, and in it the policies side by side."""
    cells = {(row["pause_scale"], row["retention"]): row for row in rows if row["status"] == OK}
    policies = list(dict.fromkeys(policy for _, policy in cells))
    figures: Sequence[tuple[str, Show]] = (
        ("in model", lambda row: narrow(mean_model_s(row))),
        ("turns/s", lambda row: plain(row["turns_per_s"])),
        ("hit rate", lambda row: percent(row["hit_rate"])),
    )
    found = table(gap=1)
    found.add_column("mean\npause", justify="right", no_wrap=True)
    for figure, _ in figures:
        for number, policy in enumerate(policies):
            found.add_column(f"{'' if number else figure}\n{policy}", justify="right", no_wrap=True)
    for scale in sorted({scale for scale, _ in cells}):
        there = [cells.get((scale, policy)) for policy in policies]
        pause_s = next(row["mean_pause_s"] for row in there if row is not None)
        found.add_row(narrow(pause_s), *(_cell(row, render) for _, render in figures for row in there))
    console.print(found)


def _break_even_lines(found: BreakEven) -> list[str]:
    """Which policy is ahead at which pauses, in words."""
    measures = {"mean time in the model": found.by_model_s, "turns/s": found.by_turns_per_s}
    lines = [f"by {measure}: {_verdict(found, stretches)}" for measure, stretches in measures.items()]
    return lines + ([f"at the logged pauses {found.fastest} is the fastest"] if found.fastest else [])


def _verdict(found: BreakEven, stretches: Sequence[Stretch]) -> str:
    tried = f"mean pauses of {duration(found.shortest_pause_s)} to {duration(found.longest_pause_s)}"
    if len(stretches) == 1:
        ahead, behind = (found.keeping, found.dropping)[:: 1 if stretches[0].ahead == found.keeping else -1]
        return f"no break-even, {ahead} is ahead of {behind} over all {tried}"
    told = ", ".join(f"{ahead} from {duration(pause_s)} on" for pause_s, ahead in stretches[1:])
    pause_s = found.break_even_s(stretches)
    result = "no break-even" if pause_s is None else f"break-even at a mean pause of {duration(pause_s)}"
    return f"{result}: {stretches[0].ahead} is ahead at first, {told}"
