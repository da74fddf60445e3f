"""A sweep of 1,000 points on one thread and on several, alternating: `python sweep_threads.py [--points 1000]`.

Real coding sessions at 1 to 48 in flight and other sizes of the cache; kept of each point is the row that `kvsim sweep`
writes. Wall time: on a machine that does anything else beside it the ratio says nothing, unless it runs before all else
(`chrt -r 1 python sweep_threads.py`).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from peers.machine import machine

import kvsim
from kvsim.commands.sweep._points import Point
from kvsim.commands.sweep._rows import row_of

LOG = Path(__file__).resolve().parents[1] / "tests" / "data" / "logs" / "kv-cache-tester" / "sessions.jsonl.gz"
MODEL, GPU = "meta-llama/Llama-3.1-8B-Instruct", "h100-sxm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    asked = parser.parse_args()
    batch, engine = kvsim.read(LOG), kvsim.EngineConfig()
    points = [
        {
            "arrivals": f"closed:{1 + number % 48}",
            "engine": replace(engine, num_gpu_blocks_override=8000 + 10 * number),
        }
        for number in range(asked.points)
    ]
    place = Point(MODEL, GPU, None, 1, "round-robin", "lru", 1.0, "closed:1")

    def sweep(threads: int) -> tuple[float, list[object]]:
        start_s = time.perf_counter()
        keep = {"keep": lambda run: row_of(place, run, 0.0)}
        rows = list(kvsim.sweep(batch, points, model=MODEL, gpu=GPU, threads=threads, **keep))
        return time.perf_counter() - start_s, rows

    print(f"{machine()}\n{asked.points} points of {batch.turns:,} turns, medians of {asked.rounds} rounds\n")
    times: dict[int, list[float]] = {}
    for _ in range(asked.rounds):
        first = None
        for threads in (1, *asked.threads):
            took_s, rows = sweep(threads)
            first = first or rows
            assert rows == first, "results depend on the number of threads"
            times.setdefault(threads, []).append(took_s)
    for threads, took in times.items():
        ratio = median(one / other for one, other in zip(times[1], took, strict=True))
        print(f"{threads} threads: {median(took):.2f} s, {ratio:.2f} times one")


if __name__ == "__main__":
    main()
