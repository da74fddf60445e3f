"""An estimate on one GPU, as text for people."""

from __future__ import annotations

from math import isnan

import numpy as np
from rich.console import Console

from kvsim.columns import trajectory_columns, turn_columns
from kvsim.commands._console import Indented, print_facts
from kvsim.commands._evidence import evidence_facts
from kvsim.commands._format import count, duration, money, narrow, percent, plain, shorten
from kvsim.commands._outlook import Outlook
from kvsim.commands._pricing_facts import load_fact, priced_facts
from kvsim.commands._ranking import Column, highest, print_ranking
from kvsim.commands._reading_facts import read_facts
from kvsim.commands._time_bars import time_bars
from kvsim.commands._totals import interval_totals, totals
from kvsim.estimation import Estimate

GIB_HOURS = 2**30 * 3600
WIDE = 96
"""From this many columns on, a table has room for more."""


def show(console: Console, outlook: Outlook, *, turns: bool, top: int) -> None:
    """Print what was read, what it was priced with, the most expensive, where the time went, what eviction cost."""
    estimate = outlook.estimate
    pricing = estimate.pricing
    sums = totals(estimate)
    print_facts(
        console,
        [
            ("Read", read_facts(estimate.batch)),
            ("Priced", priced_facts(pricing, estimate.usd_per_hour)),
            ("Load", [load_fact(pricing.load, estimate.batch)]),
            ("Evidence", evidence_facts(pricing.calibration)),
        ],
    )
    if top and len(estimate.batch):
        console.print()
        _print_trajectories(console, estimate, top)
        if turns:
            console.print()
            _print_turns(console, estimate, top)
    if not sums["trajectories"]:
        console.print("\nNone of the trajectories could be priced.")
        return
    console.print()
    print_facts(console, [("Total", total_lines(estimate, sums)), ("Eviction", eviction_lines(outlook))])
    console.print("\nWhere the time went", style="bold")
    console.print(Indented(time_bars(sums)))


def total_lines(estimate: Estimate, sums: dict[str, float]) -> list[str]:
    """The sums in words."""
    among = f"{count(sums['trajectories'], 'trajectory', 'trajectories')}, {count(sums['turns'], 'turn')}"
    if missing := len(estimate.batch) - int(sums["trajectories"]):
        among += f" (without {count(missing)} that could not be priced)"
    ends = interval_totals(estimate)
    held = f"{plain(sums['kv_byte_s'] / GIB_HOURS)} GiB·h of KV"
    cost = ", ".join([f"{plain(sums['gpu_s'])} GPU-seconds", *_priced(sums["usd"]), held])
    return [
        f"{among}: {duration(sums['latency_s'])} end to end ({between(ends['latency_s'])})",
        f"{duration(sums['model_s'])} in the model ({between(ends['model_s'])})",
        cost,
    ]


def between(ends: dict[str, float]) -> str:
    """The ends of a 90 % interval in words."""
    return f"{duration(ends['low'])} to {duration(ends['high'])} in 90 %"


def eviction_lines(outlook: Outlook) -> list[str]:
    """What eviction cost under this load, and what it would cost at every pause."""
    sums, worst = totals(outlook.estimate), totals(outlook.evicted)
    if sums["recompute_s"]:
        share = percent(sums["recompute_s"] / sums["model_s"])
        price = _priced(sums["usd"] * sums["recompute_s"] / sums["model_s"])
        recompute = f"{duration(sums['recompute_s'])} of recompute"
        line = ", ".join([recompute, f"{share} of the time in the model", *price])
        tokens = f"{count(sums['recomputed_tokens'])} tokens prefilled again"
        lines = [f"{line}: {tokens}"]
    else:
        lines = ["none under this load"]
    extra = worst["model_s"] - sums["model_s"]
    if extra > 0:
        more = f"{duration(extra)} more in the model (+{100 * extra / sums['model_s']:.0f} %)"
        price = [f"{amount} more" for amount in _priced(worst["usd"] - sums["usd"])]
        lines.append(f"if every tool pause evicted: {', '.join([more, *price])}")
    return lines


def _priced(usd: float) -> list[str]:
    """The amount, or nothing where no price is known."""
    return [] if isnan(usd) else [money(usd)]


def _print_trajectories(console: Console, estimate: Estimate, top: int) -> None:
    columns = trajectory_columns(estimate)
    rows = highest(columns["gpu_s"], top)
    shown: list[Column] = [
        ("turns", "turns", count),
        ("latency", "latency_s", narrow),
        ("pauses", "pause_s", narrow),
        ("prefill", "fresh_prefill_s", narrow),
        ("recompute", "recompute_s", narrow),
        ("decode", "decode_s", narrow),
        ("GPU-s", "gpu_s", plain),
        ("USD", "usd", money),
        ("KV\nGiB·h", "kv_byte_s", lambda value: plain(value / GIB_HOURS)),
    ]
    if console.width < WIDE and np.allclose(estimate.gpu_s, estimate.model_s, equal_nan=True):
        shown = [column for column in shown if column[1] != "gpu_s"]
    heading = f"Most expensive trajectories ({len(rows)} of {count(len(estimate.batch))})"
    print_ranking(console, heading, "trajectory", columns["id"], columns, rows, shown)


def _print_turns(console: Console, estimate: Estimate, top: int) -> None:
    columns = turn_columns(estimate)
    columns["tool"] = [tool or "" for tool in columns["tool"]]
    rows = highest(columns["gpu_s"], top)
    shown: list[Column] = [
        ("row", "row", count),
        ("after tool", "tool", lambda name: shorten(str(name), 14)),
        ("prompt", "prompt_tokens", count),
        ("cached", "cached_tokens", count),
        ("output", "output_tokens", count),
        ("pause", "pause_s", narrow),
        ("TTFT", "ttft_s", narrow),
        ("E2E", "e2e_s", narrow),
        ("USD", "usd", money),
    ]
    columns["usd"] = columns["gpu_s"] * estimate.usd_per_hour / 3600
    heading = f"Most expensive turns ({len(rows)} of {count(estimate.batch.turns)})"
    print_ranking(console, heading, "trajectory", columns["trajectory"], columns, rows, shown)
