"""Turns a second and bytes a turn of `estimate` and `simulate` from a thousand to ten million turns, one core.

    cd bench && python scaling.py [--smallest 1e3] [--largest 1e7] [--only simulate] [--rounds 5] [--plot scaling.html]

A process for each size and job. Rates are of CPU time, the best of the rounds; bytes are what the job added to the
peak of the process that already held the batch, and GB the peak itself. Linear means that the rates do not fall; "of
its own best" says how far they do. Simulations are of the sessions that other simulators get too. The plot
needs plotly.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_sessions import TURNS as SESSION
from agent_sessions import Sessions, simulate
from conftest import MODEL, agent_runs
from peers.machine import machine

import kvsim
from kvsim import backends
from kvsim.backends.interface import empty_columns
from kvsim.pricing import resolve_pricing


def _estimate(turns: int, columns: Callable[[int], Callable[[], Any]]) -> tuple[int, Callable[[], object]]:
    batch, backend = agent_runs(turns), backends.get("native")
    handle, packed, room = resolve_pricing(**MODEL).handle(backend), batch.packed(backend), columns(batch.turns)
    return batch.turns, lambda: backend.estimate(handle, packed, room())


def _no_room(turns: int) -> Callable[[], Any]:
    return lambda: None


def _fresh_room(turns: int) -> Callable[[], Any]:
    return lambda: empty_columns(turns)


def _same_room(turns: int) -> Callable[[], Any]:
    """As with ``reuse=``."""
    columns = empty_columns(turns)
    return lambda: columns


def _plain(turns: int) -> tuple[int, Callable[[], object]]:
    batch = agent_runs(turns)
    names = ("parent", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "trajectory")
    return batch.turns, lambda: [batch.columns[name].sum() for name in names]


def _price(turns: int) -> tuple[int, Callable[[], object]]:
    batch = agent_runs(turns)
    return batch.turns, lambda: kvsim.estimate(batch, **MODEL).usd


def _simulate(turns: int, in_flight: int) -> tuple[int, Callable[[], object]]:
    batch = Sessions.draw(max(turns // SESSION, 1)).batch()
    return batch.turns, lambda: simulate(batch, in_flight)


JOBS: dict[str, Callable[[int], tuple[int, Callable[[], object]]]] = {
    "plain pass": _plain,
    "estimate, totals": lambda turns: _estimate(turns, _no_room),
    "estimate, all columns": lambda turns: _estimate(turns, _fresh_room),
    "estimate, all columns reused": lambda turns: _estimate(turns, _same_room),
    "kvsim.estimate().usd": _price,
    "simulate, 16 in flight": lambda turns: _simulate(turns, 16),
    "simulate, 64 in flight": lambda turns: _simulate(turns, 64),
}


def measure(name: str, turns: int, rounds: int) -> dict[str, float]:
    """One job at one size, in this process."""
    JOBS[name](64)[1]()  # imports, and builds the law
    rows, job = JOBS[name](turns)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = _status_bytes("VmRSS")
    times = []
    for _ in range(rounds):
        repeats, spent_s = 0, 0.0
        start_s = time.process_time()
        while spent_s < 0.02:
            job()
            repeats += 1
            spent_s = time.process_time() - start_s
        times.append(spent_s / repeats)
    peak = _status_bytes("VmHWM")
    return {
        "turns": rows,
        "turns_per_s": rows / min(times),
        "bytes_a_turn": (peak - before) / rows,
        "peak_gb": peak / 1e9,
    }


def _status_bytes(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def plot(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Both figures by turns, on logarithmic axes."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, subplot_titles=("turns a second", "bytes a turn"))
    for name, rows in found.items():
        for column, what in ((1, "turns_per_s"), (2, "bytes_a_turn")):
            shown = {"x": [row["turns"] for row in rows], "y": [row[what] for row in rows], "name": name}
            figure.add_scatter(**shown, legendgroup=name, showlegend=column == 1, row=1, col=column)
    figure.update_xaxes(type="log", title="turns").update_yaxes(type="log")
    figure.update_layout(title=f"One core. {machine()}")
    figure.write_html(path, include_plotlyjs="cdn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smallest", type=float, default=1e3)
    parser.add_argument("--largest", type=float, default=1e7)
    parser.add_argument("--only", default="", metavar="WORD", help="jobs whose name has it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=Path, metavar="HTML")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measure(asked.child[0], int(asked.child[1]), asked.rounds)))
        return
    sizes = [10**power for power in range(3, 12) if asked.smallest <= 10**power <= asked.largest]
    found: dict[str, list[dict[str, Any]]] = {}
    print(f"{machine()}\n")
    print("| job | turns | turns/s | of its own best | bytes a turn | GB at peak |\n|---|--:|--:|--:|--:|--:|")
    for name in (name for name in JOBS if asked.only in name):
        for size in sizes:
            command = [sys.executable, __file__, "--child", name, str(size), "--rounds", str(asked.rounds)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.setdefault(name, []).append(json.loads(done.stdout))
        best = max(row["turns_per_s"] for row in found[name])
        for row in found[name]:
            rate = f"{row['turns_per_s'] / 1e6:.2f} M | {row['turns_per_s'] / best:.2f}"
            print(
                f"| {name} | {row['turns']:,} | {rate} | {row['bytes_a_turn']:,.0f} | {row['peak_gb']:.2f} |",
                flush=True,
            )
    if asked.plot:
        plot(found, asked.plot)


if __name__ == "__main__":
    main()
