"""Instructions that the C++ engine executes a turn, counted by callgrind: free of the machine's noise.

python bench/callgrind_simulate.py [--sessions 1000] [--concurrency 16 64 256] [--async-scheduling] [--functions]

Counted is the call into the engine alone, its output columns included; --functions lists the dearest ones. Needs
valgrind, and the installed kvsim built by a C++ compiler that keeps symbols (the default).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from agent_sessions import CONCURRENCIES, TURNS

ENGINE = "*run_simulation*"  # csrc/bindings/register_simulate.cpp
JOB = (
    "import sys, agent_sessions as a; sessions, concurrency, asynchronous = map(int, sys.argv[1:]); "
    "a.simulate(a.Sessions.draw(sessions).batch(), concurrency, async_scheduling=bool(asynchronous))"
)


def count(sessions: int, concurrency: int, async_scheduling: bool, out: Path) -> int:
    """Instructions of one simulation; callgrind's profile goes to ``out``."""
    valgrind = ["valgrind", "--tool=callgrind", "--collect-atstart=no", f"--toggle-collect={ENGINE}"]
    asked = [str(number) for number in (sessions, concurrency, int(async_scheduling))]
    job = [f"--callgrind-out-file={out}", sys.executable, "-c", JOB, *asked]
    done = subprocess.run([*valgrind, *job], capture_output=True, text=True, cwd=Path(__file__).parent)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found or found[1] == "0":
        sys.exit(f"callgrind counted nothing:\n{done.stderr}")
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCIES)
    parser.add_argument("--async-scheduling", action="store_true")
    parser.add_argument("--functions", action="store_true")
    asked = parser.parse_args()
    print("| concurrency | instructions a turn |\n|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for concurrency in asked.concurrency:
            out = Path(folder) / f"callgrind.{concurrency}"
            instructions = count(asked.sessions, concurrency, asked.async_scheduling, out)
            print(f"| {concurrency} | {instructions / (asked.sessions * TURNS):,.0f} |", flush=True)
            if asked.functions:
                subprocess.run(["callgrind_annotate", "--threshold=95", str(out)], check=True)


if __name__ == "__main__":
    main()
