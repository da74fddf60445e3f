"""The heaviest trajectories, tools, calls and models, as text for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from kvsim import __version__
from kvsim.columns import trajectory_columns
from kvsim.commands._console import print_facts, table
from kvsim.commands._format import count, money, narrow, percent, shorten
from kvsim.commands._json import write
from kvsim.commands._pricing_facts import load_fact, priced_facts
from kvsim.commands._ranking import highest, print_ranking
from kvsim.commands._reading_facts import input_object, read_facts
from kvsim.commands._totals import interval_totals, totals
from kvsim.estimation import Estimate
from kvsim.insight.tool_costs import ResponseCost, by_call, by_tool
from kvsim.insight.what_if.families import turn_of
from kvsim.insight.what_if.savings import Priced

if TYPE_CHECKING:
    from kvsim.insight.what_if.deployment import Deployment
    from kvsim.trajectory import Batch

SCHEMA = "kvsim.top/1"


@dataclass(frozen=True)
class Heaviest:
    """The runs on each deployment, and of the first the heaviest trajectories, tools and calls."""

    runs: list[Estimate]
    trajectories: list[int]
    tools: list[ResponseCost]
    calls: list[ResponseCost]


def heaviest(batch: Batch, deployments: Sequence[Deployment], most: int) -> Heaviest:
    """What weighs most, by time in the model."""
    priced = [Priced(batch, deployment) for deployment in deployments]
    runs = [base.result for base in priced if isinstance(base.result, Estimate)]
    first = priced[0]
    return Heaviest(runs, highest(runs[0].model_s, most), by_tool(first, most), by_call(first, most))


def show(console: Console, found: Heaviest) -> None:
    """Print one table of each."""
    run = found.runs[0]
    whole = totals(run)["model_s"]
    print_facts(
        console,
        [
            ("Read", read_facts(run.batch)),
            ("Priced", priced_facts(run.pricing, run.usd_per_hour)),
            ("Load", [load_fact(run.pricing.load, run.batch)]),
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
            ("prefill", "fresh_prefill_s", narrow),
            ("recompute", "recompute_s", narrow),
            ("decode", "decode_s", narrow),
            ("pauses", "pause_s", narrow),
            ("USD", "usd", money),
        ],
    )
    _show_responses(console, "Tools, by what their responses cost", found.tools, run, whole)
    _show_responses(console, "Tool calls, by what their responses cost", found.calls, run, whole)


def _show_models(console: Console, runs: Sequence[Estimate]) -> None:
    shown = table(gap=2)
    shown.add_column("model", no_wrap=True)
    for heading in ("priced", "in the model", "90 %", "USD"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for run in sorted(runs, key=lambda run: -totals(run)["model_s"]):
        sums, ends = totals(run), interval_totals(run)["model_s"]
        shown.add_row(
            Text(shorten(run.pricing.architecture.name, 36)),
            count(sums["trajectories"]),
            narrow(sums["model_s"]),
            f"{narrow(ends['low'])}…{narrow(ends['high'])}",
            money(sums["usd"]),
        )
    console.print("\nModels", style="bold")
    console.print(shown)


def _show_responses(console: Console, heading: str, costs: Sequence[ResponseCost], run: Estimate, whole: float) -> None:
    if not costs:
        return
    single = costs[0].row is not None
    shown = table(gap=1 if single else 2)
    shown.add_column("tool", no_wrap=True)
    if single:
        shown.add_column("trajectory", no_wrap=True)
        shown.add_column("turn", justify="right", no_wrap=True)
    for name in ("responses", "tokens", "cost", "share", "pauses"):
        if not (single and name == "responses"):
            shown.add_column(name, justify="right", no_wrap=True)
    for cost in costs:
        where: list[Any] = []
        if cost.row is not None:
            name = str(run.batch.ids[run.batch.trajectory[cost.row]])
            where = [Text(shorten(name, 20)), count(turn_of(run.batch, cost.row))]
        shown.add_row(
            Text(shorten(cost.tool or "(not named)", 22)),
            *where,
            *([] if single else [count(cost.responses)]),
            count(cost.tokens),
            narrow(cost.model_s.value),
            percent(cost.model_s.value / whole),
            narrow(cost.pause_s),
        )
    console.print(f"\n{heading}", style="bold")
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
            "models": [
                {"model": one.pricing.architecture.name, "totals": totals(one), "interval": interval_totals(one)}
                for one in found.runs
            ],
            "trajectories": [
                {name: getattr(values[at], "item", lambda value=values[at]: value)() for name, values in plain.items()}
                for at in range(len(found.trajectories))
            ],
            "tools": [_object(cost, run) for cost in found.tools],
            "calls": [_object(cost, run) for cost in found.calls],
            "warnings": list(warnings),
        }
    )


def _object(cost: ResponseCost, run: Estimate) -> dict[str, Any]:
    told: dict[str, Any] = {"tool": cost.tool, "responses": cost.responses, "tokens": cost.tokens}
    if cost.row is not None:
        number = int(run.batch.trajectory[cost.row])
        told |= {"trajectory": str(run.batch.ids[number]), "turn": turn_of(run.batch, cost.row), "row": cost.row}
    return told | {"pause_s": cost.pause_s, "model_s": cost.model_s._asdict(), "usd": cost.usd._asdict()}
