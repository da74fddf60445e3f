"""The heaviest trajectories, tools, calls and models, as text for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from kvsim import __version__
from kvsim.columns import trajectory_columns
from kvsim.commands._asked import EVICTION_TURNS
from kvsim.commands._console import print_facts, table
from kvsim.commands._format import count, money, narrow, percent, shorten
from kvsim.commands._json import write
from kvsim.commands._pricing_facts import priced_facts
from kvsim.commands._ranking import highest, print_ranking
from kvsim.commands._reading_facts import input_object, read_facts
from kvsim.commands._run_totals import interval_totals as run_interval_totals
from kvsim.commands._run_totals import run_totals
from kvsim.commands._tool_weights import Weight, call_table, tool_table
from kvsim.commands._totals import interval_totals, totals
from kvsim.estimation import Estimate
from kvsim.insight import attribute
from kvsim.insight.blame import blame_of_calls, blame_of_tools
from kvsim.insight.tool_costs import by_call, by_tool
from kvsim.insight.what_if.deployment import Deployment
from kvsim.insight.what_if.savings import Priced

if TYPE_CHECKING:
    from kvsim.commands._asked import Asked
    from kvsim.simulation import Simulation
    from kvsim.trajectory import Batch

SCHEMA = "kvsim.top/1"


@dataclass(frozen=True)
class Heaviest:
    """The runs by each model, and of the first the heaviest trajectories, tools and calls."""

    asked: Asked
    runs: list[Estimate | Simulation]
    trajectories: list[int]
    tools: list[Weight]
    calls: list[Weight]


def heaviest(batch: Batch, asked: Sequence[Asked], most: int) -> Heaviest:
    """What weighs most, by time in the model. ``asked``: one a model."""
    first = asked[0]
    others = [one.priced(batch) for one in asked[1:]]
    if first.simulated:
        run = first.traced(batch)
        made = attribute(run)
        tools, calls = (
            list(map(Weight.blamed, found[:most])) for found in (blame_of_tools(made), blame_of_calls(made))
        )
    else:
        base = Priced(batch, Deployment(**first.arguments))
        run = base.result
        tools, calls = (list(map(Weight.priced, found)) for found in (by_tool(base, most), by_call(base, most)))
    return Heaviest(first, [run, *others], highest(run.model_s, most), tools, calls)


def blame_warnings(found: Heaviest) -> list[str]:
    """What blame of tools rests on, where it is not the log of who evicted what."""
    run = found.runs[0]
    if isinstance(run, Estimate) or run.keeps_evictions or not run.recomputed_tokens.any():
        return []
    return [
        f"who evicted what was not written down (more than {count(EVICTION_TURNS)} turns, or a device): all that was "
        "recomputed is blamed on the tool whose pause came before it"
    ]


def _sums(run: Estimate | Simulation) -> dict[str, float]:
    return totals(run) if isinstance(run, Estimate) else run_totals(run)


def _ends(run: Estimate | Simulation) -> dict[str, dict[str, float]]:
    return interval_totals(run) if isinstance(run, Estimate) else run_interval_totals(run)


def show(console: Console, found: Heaviest) -> None:
    """Print one table of each."""
    run = found.runs[0]
    whole = _sums(run)["model_s"]
    print_facts(
        console,
        [
            ("Read", read_facts(run.batch)),
            ("Priced", priced_facts(run.pricing, run.usd_per_hour)),
            ("Load", [found.asked.fact(run)]),
        ],
    )
    if len(found.runs) > 1:
        _show_models(console, found.runs)
    columns = trajectory_columns(run) | {"share": run.model_s / whole if whole else run.model_s}
    console.print()
    print_ranking(
        console,
        f"Trajectories ({len(found.trajectories)} of {count(len(run.batch))})",
        "trajectory",
        columns["id"],
        columns,
        found.trajectories,
        [
            ("turns", "turns", count),
            ("in the\nmodel", "model_s", narrow),
            ("share", "share", percent),
            *([("queue", "queue_s", narrow)] if found.asked.simulated else []),
            ("prefill", "fresh_prefill_s", narrow),
            ("recompute", "recompute_s", narrow),
            ("decode", "decode_s", narrow),
            ("pauses", "pause_s", narrow),
            ("USD", "usd", money),
        ],
    )
    if not whole:
        return
    told = "what is blamed on their responses" if found.asked.simulated else "what their responses cost"
    for heading, shown in (
        ("Tools", tool_table(found.tools, whole) if found.tools else None),
        ("Tool calls", call_table(found.calls, whole, run.batch) if found.calls else None),
    ):
        if shown is not None:
            console.print(f"\n{heading}, by {told}", style="bold")
            console.print(shown)


def _show_models(console: Console, runs: Sequence[Estimate | Simulation]) -> None:
    shown = table(gap=2)
    shown.add_column("model", no_wrap=True)
    for heading in ("priced", "in the model", "90 %", "USD"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for run in sorted(runs, key=lambda run: -_sums(run)["model_s"]):
        sums, ends = _sums(run), _ends(run)["model_s"]
        shown.add_row(
            Text(shorten(run.pricing.architecture.name, 36)),
            count(sums["trajectories"]),
            narrow(sums["model_s"]),
            f"{narrow(ends['low'])}…{narrow(ends['high'])}",
            money(sums["usd"]),
        )
    console.print("\nModels", style="bold")
    console.print(shown)


def write_json(found: Heaviest, warnings: Sequence[str]) -> None:
    """Print one object with everything."""
    run = found.runs[0]
    columns = trajectory_columns(run)
    plain = {name: [column[at] for at in found.trajectories] for name, column in columns.items()}
    write(
        {
            "schema": SCHEMA,
            "kvsim": __version__,
            "input": input_object(run.batch),
            **({"traffic": found.asked.traffic.arguments} if found.asked.simulated else {}),
            "models": [
                {"model": one.pricing.architecture.name, "totals": _sums(one), "interval": _ends(one)}
                for one in found.runs
            ],
            "trajectories": [
                {name: getattr(values[at], "item", lambda value=values[at]: value)() for name, values in plain.items()}
                for at in range(len(found.trajectories))
            ],
            "tools": [weight.document(run.batch) for weight in found.tools],
            "calls": [weight.document(run.batch) for weight in found.calls],
            "warnings": list(warnings),
        }
    )
