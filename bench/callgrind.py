"""Instructions that the C++ kernels execute a turn, counted by callgrind: free of the machine's noise.

    cd bench && python callgrind.py [NAME ...]              counts, beside those of instructions.json
    cd bench && python callgrind.py --check [NAME ...]      fails where one is more than 2 % above
    cd bench && python callgrind.py --store                 writes instructions.json
    cd bench && python callgrind.py --functions NAME        the dearest functions

Counted is the call into the kernel alone, its output columns included. Needs valgrind, and kvsim built by a C++
compiler that keeps symbols (the default). Counts are exact, but another compiler makes other code: instructions.json
says which one it was.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
STORED = HERE / "instructions.json"
TOLERANCE = 0.02

_ESTIMATE = """
from conftest import MODEL, agent_runs
import kvsim
from kvsim import backends
from kvsim.backends.interface import empty_columns
from kvsim.pricing import resolve_pricing
backend, batch = backends.get("native"), agent_runs({turns})
handle = resolve_pricing(**MODEL, load=kvsim.Load({load})).handle(backend)
backend.estimate(handle, batch.packed(backend), {columns})
"""
_SIMULATE = """
import agent_sessions as a
a.simulate(a.Sessions.draw({sessions}).batch(), {concurrency}, async_scheduling={asynchronous})
"""
_WITHOUT = """
from conftest import MODEL, agent_runs
import kvsim
kvsim.CostTerm(**MODEL, unit="gpu_s").price(agent_runs({turns})).marginal
"""


@dataclass(frozen=True)
class Kernel:
    """A function of the extension (a pattern of its name), a program that calls it, and the turns it is about."""

    function: str
    program: str
    turns: int


def _estimate(load: str, columns: str, turns: int = 64_000) -> Kernel:
    return Kernel("*run_estimate*", _ESTIMATE.format(turns=turns, load=load, columns=columns), turns)


def _simulate(concurrency: int, asynchronous: bool, sessions: int = 200) -> Kernel:
    asked = {"sessions": sessions, "concurrency": concurrency, "asynchronous": asynchronous}
    return Kernel("*run_simulation*", _SIMULATE.format(**asked), sessions * 21)


KERNELS = {
    "estimate totals alone": _estimate("", "None"),
    "estimate totals evicted": _estimate("kv='always'", "None"),
    "estimate totals ttl": _estimate("kv='ttl:5'", "None"),
    "estimate totals lru": _estimate("concurrent=8, mean_context=8000, churn_blocks_per_s=1000.0", "None"),
    "estimate columns alone": _estimate("", "empty_columns(batch.turns)"),
    "without": Kernel("*run_without*", _WITHOUT.format(turns=3_200), 3_200),
    **{
        f"simulate closed:{concurrency}{', asynchronous' if asynchronous else ''}": _simulate(concurrency, asynchronous)
        for asynchronous in (False, True)
        for concurrency in (16, 64, 256)
    },
}


def count(kernel: Kernel, out: Path) -> int:
    """Instructions of the program's calls to the function; callgrind's profile goes to ``out``."""
    valgrind = ["valgrind", "--tool=callgrind", "--collect-atstart=no", f"--toggle-collect={kernel.function}"]
    job = [f"--callgrind-out-file={out}", sys.executable, "-c", kernel.program]
    done = subprocess.run([*valgrind, *job], capture_output=True, text=True, cwd=HERE)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found or found[1] == "0":
        sys.exit(f"callgrind counted nothing:\n{done.stderr}")
    return int(found[1])


def compiler() -> str:
    """What most likely built the extension."""
    try:
        return subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, IndexError):
        return "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default: {', '.join(KERNELS)}")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--functions", action="store_true")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(KERNELS):
        parser.error(f"no kernels: {', '.join(sorted(unknown))}")
    before = json.loads(STORED.read_text()) if STORED.exists() else {"compiler": "", "instructions_a_turn": {}}
    counts, worse = {}, []
    print("| kernel | instructions a turn | stored | |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(asked.names or KERNELS):
            out = Path(folder) / f"callgrind.{number}"
            found = counts[name] = count(KERNELS[name], out) / KERNELS[name].turns
            stored = before["instructions_a_turn"].get(name)
            change = f"{found / stored - 1:+.1%}" if stored else ""
            print(f"| {name} | {found:,.1f} | {f'{stored:,.1f}' if stored else '-'} | {change} |", flush=True)
            if stored and found > stored * (1 + TOLERANCE):
                worse.append(name)
            if asked.functions:
                subprocess.run(["callgrind_annotate", "--threshold=95", str(out)], check=True)
    if asked.store:
        told = {"compiler": compiler(), "instructions_a_turn": {**before["instructions_a_turn"], **counts}}
        STORED.write_text(json.dumps(told, indent=1) + "\n")
    if asked.check and worse:
        print(f"more than {TOLERANCE:.0%} above what is stored ({before['compiler']}): {', '.join(worse)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
