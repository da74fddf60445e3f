"""The heaviest trajectories, tools, calls and models, as text for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.text import Text

from kvsim import __version__
from kvsim.columns import trajectory_columns
from kvsim.commands._console import print_facts, table
from kvsim.commands._format import count, money, narrow, percent, shorten
from kvsim.commands._json import write
from kvsim.commands._pricing_facts import priced_facts
from kvsim.commands._ranking import highest, print_ranking
from kvsim.commands._reading_facts import input_object, read_facts
from kvsim.commands._run_totals import interval_totals as run_interval_totals
from kvsim.commands._run_totals import run_totals
from kvsim.commands._totals import interval_totals, totals
from kvsim.estimation import Estimate
from kvsim.insight import attribute
from kvsim.insight.blame import Blame, blame_of_calls, blame_of_tools
from kvsim.insight.tool_costs import ResponseCost, by_call, by_tool
from kvsim.insight.what_if.deployment import Deployment
from kvsim.insight.what_if.families import turn_of
from kvsim.insight.what_if.savings import Priced

if TYPE_CHECKING:
    from kvsim.commands._asked import Asked
    from kvsim.simulation import Simulation
    from kvsim.trajectory import Batch

SCHEMA = "kvsim.top/1"


class Weight(NamedTuple):
    """A tool (``row`` None), or what one turn read: how often, how many tokens, and what that took."""

    tool: str | None
    row: int | None
    times: int
    tokens: int
    cost_s: float
    pause_s: float
    costs: dict[str, Any]
    """As JSON has them."""


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
        tools, calls = (list(map(_blamed, found[:most])) for found in (blame_of_tools(made), blame_of_calls(made)))
    else:
        base = Priced(batch, Deployment(**first.arguments))
        run = base.result
        tools, calls = (list(map(_priced, found)) for found in (by_tool(base, most), by_call(base, most)))
    return Heaviest(first, [run, *others], highest(run.model_s, most), tools, calls)


def _priced(cost: ResponseCost) -> Weight:
    costs = {"pause_s": cost.pause_s, "model_s": cost.model_s._asdict(), "usd": cost.usd._asdict()}
    return Weight(cost.tool, cost.row, cost.responses, cost.tokens, cost.model_s.value, cost.pause_s, costs)


def _blamed(blame: Blame) -> Weight:
    parts = {name: getattr(blame, f"{name}_ns") / 1e9 for name in ("fresh", "recompute", "decode_context")}
    cost_s, pause_s = blame.model_ns / 1e9, blame.tool_ns / 1e9
    costs = {"pause_s": pause_s, "blamed_s": cost_s, **{f"{name}_s": seconds for name, seconds in parts.items()}}
    return Weight(blame.tool, blame.row, blame.calls, blame.response_tokens, cost_s, pause_s, costs)


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
    _show_weights(console, f"Tools, by {told}", found.tools, run, whole)
    _show_weights(console, f"Tool calls, by {told}", found.calls, run, whole)


def _times(run: Estimate | Simulation) -> str:
    """What is counted of a tool: parallel calls that one turn answers are one."""
    return "responses" if isinstance(run, Estimate) else "calls"


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


def _show_weights(
    console: Console, heading: str, weights: Sequence[Weight], run: Estimate | Simulation, whole: float
) -> None:
    if not weights:
        return
    single = weights[0].row is not None
    shown = table(gap=1 if single else 2)
    shown.add_column("tool", no_wrap=True)
    if single:
        shown.add_column("trajectory", no_wrap=True)
        shown.add_column("turn", justify="right", no_wrap=True)
    for name in ([] if single else [_times(run)]) + ["tokens", "cost", "share", "pauses"]:
        shown.add_column(name, justify="right", no_wrap=True)
    for weight in weights:
        where: list[Any] = []
        if weight.row is not None:
            name = str(run.batch.ids[run.batch.trajectory[weight.row]])
            where = [Text(shorten(name, 20)), count(turn_of(run.batch, weight.row))]
        shown.add_row(
            Text(shorten(weight.tool or "(not named)", 22)),
            *where,
            *([] if single else [count(weight.times)]),
            count(weight.tokens),
            narrow(weight.cost_s),
            percent(weight.cost_s / whole),
            narrow(weight.pause_s),
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
            **({"traffic": found.asked.traffic.arguments} if found.asked.simulated else {}),
            "models": [
                {"model": one.pricing.architecture.name, "totals": _sums(one), "interval": _ends(one)}
                for one in found.runs
            ],
            "trajectories": [
                {name: getattr(values[at], "item", lambda value=values[at]: value)() for name, values in plain.items()}
                for at in range(len(found.trajectories))
            ],
            "tools": [_object(weight, run) for weight in found.tools],
            "calls": [_object(weight, run) for weight in found.calls],
            "warnings": list(warnings),
        }
    )


def _object(weight: Weight, run: Estimate | Simulation) -> dict[str, Any]:
    told: dict[str, Any] = {"tool": weight.tool, _times(run): weight.times, "tokens": weight.tokens}
    if weight.row is not None:
        number = int(run.batch.trajectory[weight.row])
        told |= {"trajectory": str(run.batch.ids[number]), "turn": turn_of(run.batch, weight.row), "row": weight.row}
    return told | weight.costs
