"""A comparison of runs, for people and programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from kvsim.commands._console import Indented, print_facts, table
from kvsim.commands._format import UNKNOWN, count, percent, plain, shorten
from kvsim.insight.resampling import RESAMPLES
from kvsim.report.texts import label
from kvsim.uncertainty import COVERAGE

if TYPE_CHECKING:
    from rich.console import Console

    from kvsim.commands._compared import Compared
    from kvsim.insight.comparison import Comparison, Figure, Pair
    from kvsim.insight.partial_correlation import Correlation


MOST_PAIRS = 10
"""So many pairs of runs are shown."""


class Scale(NamedTuple):
    """How success is said: as it is, or in per cent where all of it lies between 0 and 1."""

    value: Callable[[float], str]
    end: Callable[[float], str]
    difference: Callable[[float], str]
    unit: str

    @classmethod
    def of(cls, comparison: Comparison) -> Scale:
        """What suits these runs."""
        if all(run.success.min() >= 0 and run.success.max() <= 1 for run in comparison.runs):
            return cls(percent, lambda share: f"{100 * share:.1f}", _points, "points")
        return cls(_number, _number, _signed, "")


def show(console: Console, comparison: Comparison, found: Compared, unit: str, seed: int, top: int) -> None:
    """Print the runs, every two of them beside each other, and how cost goes with success."""
    runs = comparison.runs
    tasks = len({task for run in runs for task in run.tasks})
    rollouts = sum(len(run.cost) for run in runs)
    models, gpus = ({getattr(setting, name) for setting in found.settings} for name in ("model", "gpu"))
    priced = f"{' and '.join(sorted(models))} on {' and '.join(sorted(gpus))}, costs in {unit}"
    method = f"{100 * COVERAGE:.0f} % intervals: {RESAMPLES:,} bootstraps over tasks, seed {seed}; tasks count alike"
    print_facts(
        console,
        [
            ("Read", [f"{count(rollouts, 'rollout')} in {count(len(runs), 'run')} of {count(tasks, 'task')}"]),
            ("Priced", [priced]),
            ("Method", [method]),
        ],
    )
    scale = Scale.of(comparison)
    console.print("\nCost against success", style="bold")
    shown = table()
    shown.add_column("run", overflow="fold")
    for title in ("rollouts", "tasks", "success", f"cost, {unit}", "cost of a success", "front"):
        shown.add_column(title, justify="right")
    for one in comparison.summaries:
        shown.add_row(
            Text(one.name),
            count(one.rollouts),
            count(one.tasks),
            _cell(one.success, scale.value, scale.end),
            _cell(one.cost, plain),
            _cell(one.cost_of_success, plain) if one.cost_of_success.value is not None else "none",
            "yes" if one.on_front else "",
        )
    console.print(Indented(shown))
    for pair in comparison.pairs[:MOST_PAIRS]:
        _show_pair(console, pair, unit, scale, top)
    if (more := len(comparison.pairs) - MOST_PAIRS) > 0:
        console.print(f"\n{count(more, 'more pair')} of runs: --json has all.")
    console.print("\nCost against correctness (Pearson's r among rollouts)", style="bold")
    shown = table()
    shown.add_column("run", overflow="fold")
    for title in ("rollouts", "r", "given difficulty", "rollouts", "tasks"):
        shown.add_column(title, justify="right")
    for link in comparison.links:
        given = link.given_difficulty
        shown.add_row(
            Text(link.name), count(link.plain.n), _r(link.plain), _r(given), count(given.n), count(given.clusters)
        )
    console.print(Indented(shown))
    for link in comparison.links:
        for what, found_r in (("r", link.plain), ("given difficulty", link.given_difficulty)):
            if found_r.why:
                console.print(f"  {link.name}, {what}: {found_r.why}")


def _show_pair(console: Console, pair: Pair, unit: str, scale: Scale, top: int) -> None:
    console.print(f"\n{pair.second} less {pair.first}", style="bold")
    if not pair.tasks:
        console.print("  no task in common")
        return
    ratio = f", {_said(pair.cost_ratio, plain)} times" if pair.cost_ratio.value is not None else ""
    facts = [
        (
            "Cost",
            [
                f"{_said(pair.cost, _signed)} {unit}{ratio}",
                f"dearer on {pair.dearer}, cheaper on {pair.cheaper} of {count(pair.tasks, 'task')} that both tried",
            ],
        ),
        (
            "Success",
            [
                f"{_said(pair.success, scale.difference)} {scale.unit}",
                f"better on {pair.better}, worse on {pair.worse}",
            ],
        ),
    ]
    print_facts(console, facts)
    if not top:
        return
    of_success = f"success, {scale.unit}" if scale.unit else "success"
    shown = table()
    shown.add_column("task", no_wrap=True)
    for title in ("rollouts", f"cost, {unit}", of_success):
        shown.add_column(title, justify="right", no_wrap=True)
    for task in pair.differences[:top]:
        shown.add_row(
            Text(shorten(label(str(task.task)), 24)),
            "{} and {}".format(*task.rollouts),
            _said(task.cost, _signed),
            _said(task.success, scale.difference),
        )
    console.print(Indented(shown))


def document(comparison: Comparison, found: Compared, unit: str, seed: int, said: Sequence[str]) -> dict[str, Any]:
    """The comparison as JSON."""
    from kvsim import __version__

    return {
        "schema": "kvsim.compare/1",
        "kvsim": __version__,
        "unit": unit,
        "coverage": COVERAGE,
        "resamples": RESAMPLES,
        "seed": seed,
        "runs": [
            {
                "name": one.name,
                "path": setting.path,
                "model": setting.model,
                "gpu": setting.gpu,
                "rollouts": one.rollouts,
                "tasks": one.tasks,
                **_fields("success", one.success),
                **_fields("cost", one.cost),
                **_fields("cost_of_success", one.cost_of_success),
                "on_front": one.on_front,
                "correlation": _correlation(link.plain),
                "correlation_given_difficulty": _correlation(link.given_difficulty),
            }
            for one, setting, link in zip(comparison.summaries, found.settings, comparison.links, strict=True)
        ],
        "pareto_front": [comparison.runs[number].name for number in comparison.front],
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "tasks": pair.tasks,
                **_fields("cost", pair.cost),
                **_fields("cost_ratio", pair.cost_ratio),
                **_fields("success", pair.success),
                **{name: getattr(pair, name) for name in ("dearer", "cheaper", "better", "worse")},
                "differences": [
                    {
                        "task": str(task.task),
                        "rollouts": list(task.rollouts),
                        **_fields("cost", task.cost),
                        **_fields("success", task.success),
                    }
                    for task in pair.differences
                ],
            }
            for pair in comparison.pairs
        ],
        "warnings": list(said),
    }


def _fields(name: str, figure: Figure) -> dict[str, float | None]:
    low, high = figure.interval or (None, None)
    return {name: figure.value, f"{name}_low": low, f"{name}_high": high}


def _correlation(one: Correlation) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    return {"r": one.value, "r_low": low, "r_high": high, "rollouts": one.n, "tasks": one.clusters, "why_not": one.why}


def _cell(figure: Figure, render: Callable[[float], str], end: Callable[[float], str] | None = None) -> str:
    """The value, its interval under it."""
    if figure.value is None:
        return UNKNOWN
    end = end or render
    ends = f"\n{end(figure.interval.low)} to {end(figure.interval.high)}" if figure.interval else ""
    return f"{render(figure.value)}{ends}"


def _said(figure: Figure, render: Callable[[float], str]) -> str:
    return _cell(figure, render).replace("\n", " (") + (")" if figure.interval and figure.value is not None else "")


def _r(one: Correlation) -> str:
    if one.value is None:
        return UNKNOWN
    return f"{one.value:+.2f}" + (f"\n{one.interval.low:+.2f} to {one.interval.high:+.2f}" if one.interval else "")


def _number(value: float) -> str:
    return plain(value) if value >= 0 else f"-{plain(-value)}"


def _signed(value: float) -> str:
    return f"+{plain(value)}" if value > 0 else _number(value)


def _points(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:+.1f}"
