"""Runs of rollouts with rewards, for people and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from os.path import commonpath, dirname, relpath
from typing import TYPE_CHECKING, Any

from kvsim.commands._console import Indented, print_facts, table
from kvsim.commands._format import count, percent, plain
from kvsim.errors import InputError
from kvsim.metrics.cost_of_pass import cost_of_pass
from kvsim.metrics.pareto import pareto_front
from kvsim.metrics.tool_productivity import tool_productivity
from kvsim.reward.plot import Run

if TYPE_CHECKING:
    from rich.console import Console

    from kvsim.reward import CostTerm
    from kvsim.reward.scored import Scored


@dataclass(frozen=True, eq=False)
class Outcome:
    """One run: its rollouts as points, and what they come to."""

    name: str
    points: Run
    correct: float
    cost_of_pass: float
    tool_productivity: float
    assumptions: dict[str, int]

    @property
    def mean_cost(self) -> float:
        return float(self.points.costs.mean())

    @property
    def mean_reward(self) -> float:
        return float(self.points.rewards.mean())


def declared(durations: Sequence[str]) -> dict[str, float] | None:
    """``TOOL=SECONDS`` options as durations."""
    found: dict[str, float] = {}
    for text in durations:
        name, equals, seconds = text.rpartition("=")
        try:
            found[name] = float(seconds) if equals and name else inf
        except ValueError:
            found[name] = inf
        if found[name] == inf:
            raise InputError(f"{text!r} is no duration", field="duration", remedy="Give TOOL=SECONDS")
    return found or None


def outcome(run: Scored, term: CostTerm, correct_above: float) -> Outcome:
    """What a run's rollouts cost and achieved."""
    if not len(run.batch):
        raise InputError("holds no rollout", file=run.file, remedy="Leave it out")
    costs = term.price(run.batch)
    correct = run.rewards > correct_above
    return Outcome(
        run.file,
        Run(costs.trajectories, run.rewards, [str(name) for name in run.batch.ids]),
        float(correct.mean()),
        float(cost_of_pass(costs.trajectories, correct)[0]),
        tool_productivity(correct, costs.calls),
        costs.assumptions,
    )


def front(runs: Sequence[Outcome]) -> list[int]:
    """Numbers of the runs on the Pareto front of mean reward against mean cost, the cheapest first."""
    on_front: list[int] = pareto_front([run.mean_cost for run in runs], [run.mean_reward for run in runs]).tolist()
    return on_front


def warnings(runs: Sequence[Outcome]) -> list[str]:
    """What was taken for granted in all runs together."""
    total = sum((Counter(run.assumptions) for run in runs), Counter[str]())
    return [f"{what} ({times} times)" for what, times in total.items()]


def show(console: Console, runs: Sequence[Outcome], on_front: Sequence[int], term: CostTerm) -> None:
    """A table of the runs."""
    pricing = term.pricing
    rollouts = sum(len(run.points.costs) for run in runs)
    print_facts(
        console,
        [
            ("Read", [f"{count(rollouts, 'rollout')} of {count(len(runs), 'file')}"]),
            ("Priced", [f"{pricing.architecture.name} on {pricing.gpu.id}, costs in {term.unit}"]),
        ],
    )
    console.print()
    shown = table()
    shown.add_column("run", overflow="fold")
    for title in ("rollouts", "reward", "correct", "cost", "cost of pass", "front"):
        shown.add_column(title, justify="right")
    folder = "" if len(runs) < 2 else commonpath([dirname(run.name) for run in runs])
    for number, run in enumerate(runs):
        shown.add_row(
            relpath(run.name, folder) if folder else run.name,
            count(len(run.points.costs)),
            plain(run.mean_reward),
            percent(run.correct),
            f"{run.mean_cost:.4g}",
            f"{run.cost_of_pass:.4g}" if run.cost_of_pass != inf else "none passed",
            "yes" if number in on_front else "",
        )
    console.print(Indented(shown))


def document(runs: Sequence[Outcome], on_front: Sequence[int], unit: str, said: Sequence[str]) -> dict[str, Any]:
    """The runs as JSON."""
    from kvsim import __version__

    return {
        "schema": "kvsim.rewards/1",
        "kvsim": __version__,
        "unit": unit,
        "runs": [
            {
                "file": run.name,
                "rollouts": len(run.points.costs),
                "mean_reward": run.mean_reward,
                "correct_share": run.correct,
                "mean_cost": run.mean_cost,
                "cost_of_pass": run.cost_of_pass,
                "tool_productivity": run.tool_productivity,
                "assumptions": run.assumptions,
                "trajectories": [
                    {"id": name, "cost": float(cost), "reward": float(reward)}
                    for name, cost, reward in zip(run.points.names, run.points.costs, run.points.rewards, strict=True)
                ],
            }
            for run in runs
        ],
        "pareto_front": [runs[number].name for number in on_front],
        "warnings": list(said),
    }
