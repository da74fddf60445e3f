"""Estimates side by side, as text for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from kvsim.columns import Mask
from kvsim.commands._console import print_facts, table
from kvsim.commands._evidence import basis, interval
from kvsim.commands._format import count, duration, money, plain
from kvsim.commands._one_gpu import GIB_HOURS
from kvsim.commands._outlook import Misfit, Outlook
from kvsim.commands._pricing_facts import load_fact
from kvsim.commands._reading_facts import read_facts
from kvsim.commands._totals import priced_by_all, totals
from kvsim.estimation import Estimate

Row = tuple[str, Callable[[Estimate, dict[str, float]], str]]

_TIMES: list[Row] = [
    ("tool pauses", lambda _, sums: duration(sums["pause_s"])),
    ("fresh prefill", lambda _, sums: duration(sums["fresh_prefill_s"])),
    ("recompute", lambda _, sums: duration(sums["recompute_s"])),
    ("decode", lambda _, sums: duration(sums["decode_s"])),
]
_COSTS: list[Row] = [
    ("in the model", lambda _, sums: duration(sums["model_s"])),
    ("end to end", lambda _, sums: duration(sums["latency_s"])),
    ("GPU-seconds", lambda _, sums: plain(sums["gpu_s"])),
    ("US dollars", lambda _, sums: money(sums["usd"])),
    ("KV held, GiB·h", lambda _, sums: plain(sums["kv_byte_s"] / GIB_HOURS)),
]


NO_FIT = "does not fit"


def show(console: Console, outlooks: Sequence[Outlook], misfits: Sequence[Misfit] = ()) -> None:
    """Print what was read and priced, and each GPU in a column, over the trajectories that all can serve.

    A GPU that the model does not fit on has a column that says so.
    """
    estimates = [outlook.estimate for outlook in outlooks]
    first = estimates[0]
    print_facts(
        console,
        [
            ("Read", read_facts(first.batch)),
            ("Priced", [first.pricing.architecture.name]),
            ("Load", [load_fact(first.pricing.load, first.batch)]),
        ],
    )
    among = priced_by_all(estimates)
    number = int(among.sum())
    whose = "all trajectories" if number == len(first.batch) else f"the {count(number)} that every GPU can serve"
    console.print(f"\nTotals of {whose}", style="bold")
    headings = [_heading(estimate) for estimate in estimates]
    comparison = side_by_side(
        headings, estimates, among, [_ranks(one.tensor_parallel_size, one.gpu) for one in misfits]
    )
    comparison.add_section()
    worst = [totals(outlook.evicted, among) for outlook in outlooks]
    comparison.add_row("if every pause evicted:")
    comparison.add_row("  in the model", *(duration(sums["model_s"]) for sums in worst))
    comparison.add_row("  US dollars", *(money(sums["usd"]) for sums in worst))
    console.print(comparison)
    console.print("\nEvidence: how far measured times were off the estimate, in 90 % of cases", style="bold")
    console.print(evidence(headings, estimates))


def _heading(estimate: Estimate) -> str:
    return _ranks(estimate.pricing.engine.tensor_parallel_size, estimate.pricing.gpu.id)


def _ranks(number: int, gpu: str) -> str:
    return gpu if number == 1 else f"{number} x {gpu}"


def side_by_side(
    headings: Sequence[str], estimates: Sequence[Estimate], among: Mask, misfits: Sequence[str] = ()
) -> Table:
    """A column an estimate, sums over the trajectories of ``among``; then one a heading of ``misfits``."""
    comparison = _columns_of([*headings, *misfits])
    if misfits:
        comparison.add_row("", *[""] * len(headings), *[NO_FIT] * len(misfits))
    sums = [totals(estimate, among) for estimate in estimates]
    for rows in (_TIMES, _COSTS):
        for label, cell in rows:
            comparison.add_row(label, *(cell(estimate, found) for estimate, found in zip(estimates, sums, strict=True)))
        comparison.add_section()
    return comparison


def evidence(headings: Sequence[str], estimates: Sequence[Estimate]) -> Table:
    """What each column rests on."""
    shown = _columns_of(headings)
    calibrations = [estimate.pricing.calibration for estimate in estimates]
    shown.add_row("basis", *map(basis, calibrations))
    for regime in ("prefill", "decode"):
        shown.add_row(regime, *(interval(found.residuals[regime]) for found in calibrations))
        shown.add_row("  held-out points", *(count(found.residuals[regime].n) for found in calibrations))
    shown.add_row("KV cache, tokens", *(count(estimate.pricing.engine.kv_capacity_tokens) for estimate in estimates))
    return shown


def _columns_of(headings: Sequence[str]) -> Table:
    columns = table()
    columns.add_column("", no_wrap=True)
    for heading in headings:
        columns.add_column(heading, justify="right")
    return columns
