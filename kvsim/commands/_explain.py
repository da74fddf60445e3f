"""What ``kvsim explain`` found, as text for people, JSON and CSV."""

from __future__ import annotations

import csv
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvsim import __version__
from kvsim.commands._asked import Asked
from kvsim.commands._console import Indented, print_facts, table
from kvsim.commands._evidence import evidence_facts
from kvsim.commands._format import UNKNOWN, count, duration, money, narrow, percent, printable, shorten
from kvsim.commands._json import write
from kvsim.commands._pricing_facts import priced_facts, pricing_object
from kvsim.commands._reading_facts import input_object, read_facts
from kvsim.commands._time_bars import BAR_WIDTH
from kvsim.commands._tool_weights import Weight, tool_table
from kvsim.errors import UnknownNameError
from kvsim.insight import Transcripts, explain

if TYPE_CHECKING:
    from kvsim.insight import Advice, PatternFound, Saving
    from kvsim.insight.what_if.savings import Ends

SCHEMA = "kvsim.explain/1"
TOOLS = 6
"""So many tools are shown."""

PARTS = {
    "queue_ns": "queue",
    "fresh_ns": "fresh prefill",
    "recompute_ns": "recompute",
    "decode_base_ns": "decode, base",
    "decode_context_ns": "decode, context",
    "decode_beside_ns": "decode, others",
}


_SOURCES = {
    "system": "system prompt",
    "tools": "tool definitions",
    "user": "user",
    "tool": "tool responses",
    "own": "own output",
    "other": "not told",
    "kept": "context that no cache could have",
    "beside": "others in its steps",
}
_BOUND = "\u00a0"


@dataclass(frozen=True)
class Explained:
    """What was asked for, and what was found; ``spoken`` trajectories carry text."""

    asked: Asked
    advice: Advice
    spoken: int


def chosen(read: Transcripts, trajectory: str | None) -> Transcripts:
    """All that was read, or the one trajectory of that name."""
    if trajectory is None:
        return read
    ids = [str(name) for name in read.batch.ids]
    if trajectory not in ids:
        raise UnknownNameError("trajectory", trajectory, ids)
    return read.select([ids.index(trajectory)])


def explained(read: Transcripts, asked: Asked, wishes: dict[str, Any]) -> Explained:
    """The advice on what was read."""
    if asked.strict:
        asked.priced(read.batch, strict=True)
    advice = explain(read.batch, **asked.arguments, **wishes, transcripts=read if len(read) else None)
    return Explained(asked, advice, len(read))


def show(console: Console, found: Explained, *, top: int) -> None:
    """Print what was read and priced, where the time went, what tools cost, the changes and the patterns."""
    advice = found.advice
    result = advice.result
    print_facts(
        console,
        [
            ("Read", read_facts(result.batch)),
            ("Priced", priced_facts(result.pricing, result.usd_per_hour)),
            ("Load", [found.asked.fact(result)]),
            ("Evidence", evidence_facts(result.pricing.calibration)),
        ],
    )
    model_s, latency_s, usd = (advice.totals[unit] for unit in ("model_s", "latency_s", "usd"))
    if not model_s.value:
        console.print("\nNone of the trajectories could be priced.")
        return
    console.print()
    costs = [] if isnan(usd.value) else [f"{money(usd.value)} ({money(usd.low)} to {money(usd.high)})"]
    lines = [f"{duration(model_s.value)} in the model ({_between(model_s)} in 90 %)", *costs]
    print_facts(console, [("Total", [*lines, f"{duration(latency_s.value)} end to end, tool pauses included"])])
    console.print("\nWhere the time in the model went", style="bold")
    console.print(Indented(_parts(advice)))
    for label, name in (("fresh prefill", "fresh"), ("context read", "decode_context")):
        if said := _shares(_sources(advice)[name]):
            _print_indented(console, f"{label} is of {said}")
    if advice.tools:
        console.print("\nWhat tool responses cost, over the rest of the run too", style="bold")
        console.print(Indented(tool_table(list(map(Weight.priced, advice.tools[:TOOLS])), model_s.value)))
    shown = advice.top(top)
    console.print(f"\nWhat to change in the agent ({len(shown)} of {count(len(advice.agent))})", style="bold")
    console.print(_changes(shown, console.width) if shown else "  nothing found that would save time")
    serving = advice.serving[:top]
    if serving:
        console.print("\nWhat to change in the serving", style="bold")
        console.print(_changes(serving, console.width))
    console.print("\nPatterns", style="bold")
    console.print(Indented(_patterns(advice.patterns, spoken=found.spoken > 0)))
    console.print()
    print_facts(console, [(label, lines) for label, lines in _asides(found, [*shown, *serving]) if lines])


def _asides(found: Explained, shown: Sequence[Saving]) -> list[tuple[str, list[str]]]:
    unit = "time in the model" if found.advice.by == "model_s" else "time end to end"
    assumed = list(dict.fromkeys(saving.assumption for saving in shown if saving.assumption))
    how = [f"Savings are of {unit}, with their 90 % interval: both sides are priced with one law, short and long."]
    text = [] if found.spoken else ["The log carries no text: only patterns that counts reveal were looked for."]
    hints = [
        f"{pattern.name}: a hint, its precision is not known well (docs/patterns.md)"
        for pattern in found.advice.patterns
        if pattern.hint and pattern.fired
    ]
    return [("Read so", how), ("Assumed", assumed), ("Patterns", [*text, *hints]), ("Not told", found.advice.notes)]


def _parts(advice: Advice) -> Table:
    run = advice.attribution.run
    parts = [(label, int(run[name][0]) / 1e9) for name, label in PARTS.items()]
    whole = sum(seconds for _, seconds in parts)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "right", "left"):
        grid.add_column(justify=justify)
    for label, seconds in parts:
        if seconds:
            share = seconds / whole
            grid.add_row(label, duration(seconds), percent(share), Text("█" * round(share * BAR_WIDTH) or "▏"))
    return grid


def _sources(advice: Advice) -> dict[str, dict[str, float]]:
    """What the fresh prefill and the reading of contexts were of, in seconds."""
    found = advice.attribution.run_sources
    tables = {"fresh": found.fresh_ns, "decode_context": found.decode_context_ns}
    return {name: {kind: int(column[0]) / 1e9 for kind, column in table.items()} for name, table in tables.items()}


def _shares(seconds: dict[str, float]) -> str:
    """Shares of a whole by falling size, those below a hundredth left out; nothing where only "other" is known."""
    whole = sum(seconds.values())
    shares = {name: value / whole for name, value in seconds.items() if whole and value >= whole / 100}
    if set(shares) <= {"other"}:
        return ""
    ranked = sorted(shares.items(), key=lambda one: -one[1])
    return ", ".join(f"{_SOURCES[name]} {100 * share:.0f} %" for name, share in ranked)


def _print_indented(console: Console, line: str) -> None:
    """Print a line under a table, wrapped, numbers beside their signs."""
    bound = line.replace(" %", f"{_BOUND}%")
    for part in textwrap.wrap(bound, console.width, initial_indent="  ", subsequent_indent="    "):
        console.print(part.replace(_BOUND, " "), soft_wrap=True)


def _changes(savings: Sequence[Saving], width: int) -> Table:
    rows = []
    for number, saving in enumerate(savings, start=1):
        where = f"\n{shorten(saving.trajectory, 24)}, turn {saving.turn}" if saving.trajectory is not None else ""
        ends = f"{_signed(saving.saved_low_s)}…{_signed(saving.saved_high_s)}"
        usd = UNKNOWN if isnan(saving.saved_usd) else _signed_money(saving.saved_usd)
        figures = (_signed(saving.saved_s), ends, percent(saving.share), usd)
        rows.append((str(number), Text(f"{printable(saving.name)}{where}"), *figures))
    headings = ("saves", "90 %", "share", "USD")
    taken = sum(max(len(heading), *(len(row[at]) for row in rows)) + 2 for at, heading in enumerate(headings, start=2))
    shown = table(gap=2)
    shown.add_column("", justify="right", no_wrap=True)
    shown.add_column("change", ratio=1, min_width=max(24, min(width - taken - 4, width - 46, 60)))
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def _patterns(patterns: Sequence[PatternFound], *, spoken: bool) -> Table:
    shown = table(gap=2)
    shown.add_column("pattern", no_wrap=True)
    for heading in ("times", "runs", "of", "cost beside others"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for pattern in patterns:
        if pattern.needs_text and not spoken:
            continue
        ratio = pattern.multiplier
        cost = "" if ratio is None else f"{ratio.value:.2f} x ({ratio.low:.2f} to {ratio.high:.2f})"
        shown.add_row(pattern.name, count(len(pattern.findings)), count(pattern.fired), count(pattern.looked_at), cost)
    return shown


def write_json(found: Explained, warnings: Sequence[str], *, top: int) -> None:
    """Print one object with everything."""
    advice = found.advice
    run = advice.attribution.run
    write(
        {
            "schema": SCHEMA,
            "kvsim": __version__,
            "input": input_object(advice.batch),
            "pricing": pricing_object(advice.result),
            "by": advice.by,
            "totals": {unit: ends._asdict() for unit, ends in advice.totals.items()},
            "sources_s": _sources(advice),
            "attribution_s": {name.removesuffix("_ns"): int(run[name][0]) / 1e9 for name in PARTS},
            "tools": [Weight.priced(cost).document(advice.batch) for cost in advice.tools],
            "top": [advice.agent.index(saving) for saving in advice.top(top)],
            "agent": [_saving_object(saving) for saving in advice.agent],
            "serving": [_saving_object(saving) for saving in advice.serving],
            "patterns": [_pattern_object(pattern, spoken=found.spoken > 0) for pattern in advice.patterns],
            "notes": advice.notes,
            "warnings": list(warnings),
        }
    )


_TOLD = ("name", "kind", "scope", "trajectory", "turn", "tool", "share", "assumption")


def _saving_object(saving: Saving) -> dict[str, Any]:
    told = {name: getattr(saving, name) for name in _TOLD}
    return told | {f"saved_{unit}": ends._asdict() for unit, ends in saving.by_unit.items()}


def _pattern_object(pattern: PatternFound, *, spoken: bool) -> dict[str, Any]:
    looked = spoken or not pattern.needs_text
    return {
        "name": pattern.name,
        "title": pattern.title,
        "looked_for": looked,
        "looked_at": pattern.looked_at,
        "fired": pattern.fired,
        "hint": pattern.hint,
        "multiplier": None if pattern.multiplier is None else pattern.multiplier._asdict(),
        "findings": [
            {"row": finding.row, "detail": finding.detail, "span": finding.span and finding.span._asdict()}
            for finding in pattern.findings
        ],
    }


def write_csv(found: Explained) -> None:
    """Print one row a change, the header first; what is unknown is empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    units = [f"saved_{unit}{end}" for unit in ("model_s", "latency_s", "usd") for end in ("", "_low", "_high")]
    writer.writerow([*_TOLD, *units])
    for saving in (*found.advice.agent, *found.advice.serving):
        values = [getattr(saving, name) for name in _TOLD]
        values += [part for unit in ("model_s", "latency_s", "usd") for part in saving.by_unit[unit]]
        writer.writerow("" if value is None or value != value else value for value in values)


def _between(ends: Ends) -> str:
    return f"{duration(ends.low)} to {duration(ends.high)}"


def _signed(seconds: float) -> str:
    return narrow(seconds) if seconds >= 0 else f"-{narrow(-seconds)}"


def _signed_money(usd: float) -> str:
    return money(usd) if usd >= 0 else f"-{money(-usd)}"
