"""Speed and memory of ``simulate`` from a thousand to a million sessions, one core, a process for each size.

python bench/scale_simulate.py [--sessions 1000 10000 100000 1000000] [--concurrency 16]

Timed is everything from a ready Batch to a Simulation with its columns; peak memory is the whole process's, the Batch
and its generation included. CPU times, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

from agent_sessions import TURNS, Sessions, simulate

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def measure(sessions: int, concurrency: int) -> dict[str, float]:
    """Draws and simulates in this process."""
    simulate(Sessions.draw(2).batch(), concurrency)  # imports and builds the law
    batch = Sessions.draw(sessions).batch()
    before_gb = _peak_gb()
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    run = simulate(batch, concurrency)
    cpu_s, wall_s = time.process_time() - start_cpu_s, time.perf_counter() - start_s
    return {
        "turns": batch.turns,
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "batch_gb": before_gb,
        "peak_gb": _peak_gb(),
        "hit_rate": run.engine.hit_rate,
    }


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=SIZES)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measure(asked.sessions[0], asked.concurrency)))
        return
    print(f"{TURNS} turns a session, concurrency {asked.concurrency}, load {os.getloadavg()[0]:.1f}\n")
    print("| sessions | turns | CPU s | wall s | turns/s | hit rate | GB before | GB at peak |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for sessions in asked.sessions:
        command = [sys.executable, __file__, "--child", "--sessions", str(sessions)]
        command += ["--concurrency", str(asked.concurrency)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(
            f"| {sessions:,} | {row['turns']:,} | {row['cpu_s']:.2f} | {row['wall_s']:.2f}"
            f" | {row['turns'] / row['cpu_s']:,.0f} | {row['hit_rate']:.3f}"
            f" | {row['batch_gb']:.2f} | {row['peak_gb']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
