"""A simulation as text for people."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from kvsim.columns import records, trajectory_columns
from kvsim.commands._console import Indented, print_facts, table
from kvsim.commands._evidence import evidence_facts
from kvsim.commands._format import count, duration, money, narrow, percent, plain
from kvsim.commands._pricing_facts import priced_facts
from kvsim.commands._ranking import Column, highest, print_ranking
from kvsim.commands._reading_facts import read_facts
from kvsim.commands._run_totals import (
    QUANTILES,
    distributions,
    engine_totals,
    interval_distributions,
    replica_totals,
    run_totals,
)
from kvsim.commands._time_bars import time_bars

if TYPE_CHECKING:
    from kvsim.commands._traffic import Traffic
    from kvsim.simulation import Simulation

_TIMES = {
    "ttft_s": "time to first token",
    "queue_s": "  of it in the queue",
    "decode_s": "decoding",
    "e2e_s": "a turn, end to end",
    "latency_s": "a trajectory, pauses included",
}

BINS = 48
"""So many bins of a timeline are shown."""


def show(console: Console, run: Simulation, traffic: Traffic, *, top: int, timeline: bool) -> None:
    """Print what was read, what served it and how, totals, times, where the time went, and the slowest trajectories."""
    totals, sums = engine_totals(run), run_totals(run)
    print_facts(
        console,
        [
            ("Read", read_facts(run.batch)),
            ("Priced", priced_facts(run.pricing, run.usd_per_hour)),
            ("Load", [traffic.fact()]),
            ("Evidence", evidence_facts(run.pricing.calibration)),
        ],
    )
    if not totals["turns"]:
        console.print("\nNone of the turns could be served.")
        return
    console.print()
    print_facts(console, [("Total", total_lines(run, totals, sums)), ("Cache", cache_lines(totals, sums))])
    if len(run.replicas) > 1:
        console.print()
        console.print(replica_table(run))
    if timeline:
        console.print()
        _print_timeline(console, run)
    if not sums["trajectories"]:
        console.print("\nNone of the trajectories could be served whole.")
        return
    console.print()
    console.print(times_table(distributions(run), interval_distributions(run)))
    console.print("\nWhere the time went", style="bold")
    console.print(Indented(time_bars(sums)))
    if top:
        console.print()
        _print_slowest(console, run, top)


def total_lines(run: Simulation, totals: dict[str, float], sums: dict[str, float]) -> list[str]:
    """The engine's work and its price in words."""
    among = f"{count(sums['trajectories'], 'trajectory', 'trajectories')}, {count(sums['turns'], 'turn')}"
    if missing := len(run.batch) - int(sums["trajectories"]):
        among += f" (without {count(missing)} that could not be served whole)"
    rate = f"{plain(totals['turns_per_s'])} turns/s, {plain(totals['output_tokens_per_s'])} output tokens/s"
    busy = f"busy {percent(totals['busy_share'])} of {duration(totals['makespan_s'])}"
    cost = [f"{plain(sums['gpu_s'])} GPU-seconds", *([] if isnan(sums["usd"]) else [money(sums["usd"])])]
    return [
        f"{among}: {', '.join(cost)}",
        f"the engine served {count(totals['turns'], 'turn')} in {count(totals['steps'], 'step')}, {busy}: {rate}",
    ]


def cache_lines(totals: dict[str, float], sums: dict[str, float]) -> list[str]:
    """Hits, evictions and what was computed again, in words."""
    lines = [f"{percent(totals['hit_rate'])} of prompt tokens were cached"]
    if totals["reuse_share"] < 1:
        lines.append(
            f"{percent(1 - totals['reuse_share'])} of what had been cached was evicted before its use: "
            f"{count(sums['recomputed_tokens'])} tokens prefilled again in {duration(sums['recompute_s'])}"
        )
    blocks = f"{count(totals['evicted_blocks'], 'block')} evicted, {count(totals['preemptions'], 'preemption')}"
    most = f"{count(totals['peak_blocks'])} of {count(totals['usable_blocks'])} blocks in use at most"
    return [*lines, f"{blocks}; {most}, by {count(totals['peak_sequences'], 'turn')} at once"]


def times_table(found: dict[str, dict[str, float]], ends: dict[str, dict[str, dict[str, float]]]) -> Table:
    """A line a time: its mean with the 90 % interval, and its quantiles."""
    shown = table(gap=1)
    shown.add_column("", no_wrap=True)
    for heading in ("mean", "90 % interval", *QUANTILES):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, label in _TIMES.items():
        mean, *quantiles = map(narrow, found[name].values())
        around = " to ".join(narrow(end) for end in ends[name]["mean"].values())
        shown.add_row(label, mean, around, *quantiles)
    return shown


def replica_table(run: Simulation) -> Table:
    """A line a replica."""
    shown: dict[str, tuple[str, Callable[[float], str]]] = {
        "turns": ("turns", count),
        "busy_s": ("busy", duration),
        "busy_share": ("share", percent),
        "hit_rate": ("hit rate", percent),
        "evicted_blocks": ("evicted", count),
        "preemptions": ("preemptions", count),
        "peak_blocks": ("peak blocks", count),
    }
    found = table()
    found.add_column("replica", justify="right", no_wrap=True)
    for heading, _ in shown.values():
        found.add_column(heading, justify="right", no_wrap=True)
    for number, totals in enumerate(replica_totals(run)):
        found.add_row(str(number), *(render(totals[name]) for name, (_, render) in shown.items()))
    return found


def _print_timeline(console: Console, run: Simulation) -> None:
    """A line a bin of a replica, the first of them where there are many."""
    bins = records(dict(run.timeline))
    found = table()
    for heading in ("replica", "time", "KV use", "running", "waiting", "hit rate"):
        found.add_column(heading, justify="right", no_wrap=True)
    for one in bins[:BINS]:
        figures = (percent(one["kv_use"]), f"{one['running']:.2f}", f"{one['waiting']:.2f}", percent(one["hit_rate"]))
        found.add_row(str(one["replica"]), duration(one["time_s"]), *figures)
    console.print(found)
    if len(bins) > BINS:
        console.print(f"The first {BINS} of {count(len(bins))} bins; --timeline-csv writes all.")


def _print_slowest(console: Console, run: Simulation, top: int) -> None:
    columns = trajectory_columns(run)
    rows = highest(columns["latency_s"], top)
    shown: list[Column] = [
        ("turns", "turns", count),
        ("latency", "latency_s", narrow),
        ("pauses", "pause_s", narrow),
        ("queue", "queue_s", narrow),
        ("prefill", "fresh_prefill_s", narrow),
        ("recompute", "recompute_s", narrow),
        ("decode", "decode_s", narrow),
        ("USD", "usd", money),
    ]
    heading = f"Slowest trajectories ({len(rows)} of {count(len(run.batch))})"
    print_ranking(console, heading, "trajectory", columns["id"], columns, rows, shown)
