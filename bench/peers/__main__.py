"""kvsim beside the simulators and calculators that install here, on the same inputs in the same run.

    cd bench && python -m peers [--only NAME ...] [--quick] [--output FILE]

Each peer gets a virtual environment of its own under .cache/peers when first asked for (the largest takes 0.5 GB). One
that cannot be installed or run is said so, and the others go on. Rates count CPU time, so that other work on the
machine counts less, but for kvcache-simulator, a command that is timed as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from agent_sessions import Sessions
from peers import against_dynamo, hit_rates, step_times
from peers.environments import DYNAMO, MissingPeerError
from peers.machine import machine

GIVEN = {"Vidur": 370, "Frontier": 47, "BLIS": 118}
"""Turns or requests a second of simulators that do not install here, as measured on a machine like this one."""

OUTPUT = Path(__file__).resolve().parents[2] / ".benchmarks" / "peers.json"
PEERS = ("dynamo", "kvcache-simulator", "libcachesim", "aiconfigurator", "genz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS, metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--quick", action="store_true", help="fewer sessions and rounds")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="all of it as JSON")
    asked = parser.parse_args()
    told: dict[str, Any] = {"machine": machine(), "missing": {}}
    print(told["machine"])

    def attempt(name: str, work: Callable[[], Any]) -> Any:
        """What a peer gives, or None; why not goes into the report."""
        if name not in asked.only:
            return None
        try:
            return work()
        except MissingPeerError as error:
            told["missing"][name] = str(error)
            print(f"\n{name} left out: {error}")
            return None

    _simulators(told, attempt, asked.quick)
    _caches(told, attempt, 192 if asked.quick else 1000)
    _calculators(told, attempt)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(told, indent=1, default=float) + "\n")
    print(f"\nall of it: {asked.output}")


def _simulators(told: dict[str, Any], attempt: Callable[..., Any], quick: bool) -> None:
    sessions, rounds = (Sessions.draw(200), 1) if quick else (Sessions.draw(1000), 3)
    found = attempt("dynamo", lambda: against_dynamo.compared(DYNAMO.python(), sessions, rounds))
    if found is None:
        return
    told["simulate"] = found
    print(f"\n## Whole simulations, beside ai-dynamo {found['version']}; {found['turns']:,} turns, {rounds} rounds\n")
    against_dynamo.show(found)
    slowest = min(rate["simulate"] for rate in found["turns_per_s"].values())
    told["times_given"] = {name: slowest / rate for name, rate in GIVEN.items()}
    given = ", ".join(f"{ratio:,.0f} times {name}'s" for name, ratio in told["times_given"].items())
    print(f"\nkvsim's slowest rate is {given} published here ({json.dumps(GIVEN)} a second).")


def _caches(told: dict[str, Any], attempt: Callable[..., Any], sessions: int) -> None:
    requests = hit_rates.Requests(sessions, 0)
    rows = {"kvsim": hit_rates.by_kvsim(requests)}
    with tempfile.TemporaryDirectory() as folder:
        for name, ask in (
            ("kvcache-simulator", hit_rates.by_kvcache_simulator),
            ("libcachesim", hit_rates.by_libcachesim),
        ):
            found = attempt(name, lambda ask=ask: ask(requests, Path(folder)))
            if found is not None:
                rows[name] = found
    told["hit_rates"] = rows
    print(f"\n## Hit rates: {len(requests):,} requests, {int(requests.blocks.sum()):,} blocks\n")
    print("| | version | hit rate | of the last half | requests/s | kvsim is faster |\n|---|---|--:|--:|--:|--:|")
    for name, row in rows.items():
        rates = [f"{row[key]:.5f}" if key in row else "-" for key in ("hit_rate", "hit_rate_last_half")]
        ratio = rows["kvsim"]["requests_per_s"] / row["requests_per_s"]
        print(f"| {name} | {row['version']} | {' | '.join(rates)} | {row['requests_per_s']:,.0f} | {ratio:,.0f} x |")


def _calculators(told: dict[str, Any], attempt: Callable[..., Any]) -> None:
    own = step_times.compared()
    rows, answers = own["rows"], {"kvsim": own}
    for name, ask in (("aiconfigurator", step_times.by_aiconfigurator), ("genz", step_times.by_genz)):
        found = attempt(name, lambda ask=ask: ask(rows))
        if found is not None:
            answers[name] = found
            for row, value in zip(rows, found["milliseconds"], strict=True):
                row[name] = value
    told["step_times"] = {"rows": rows, "call_us": {name: one["call_us"] for name, one in answers.items()}}
    print("\n## Step times in ms, bf16, one GPU\n")
    names = list(answers)
    print("| model | GPU | step | " + " | ".join(names) + " |\n|---|---|---|" + "--:|" * len(names))
    for row in rows:
        if sum(row[name] is not None for name in names) < min(2, len(names)):
            continue
        step = f"decode {row['decoding']} x {row['context']}" if row["decoding"] else f"{row['new']} + {row['cached']}"
        cells = [f"{row[name]:.1f}" if row[name] is not None else "-" for name in names]
        print(f"| {row['model'].rpartition('/')[2]} | {row['gpu']} | {step} | {' | '.join(cells)} |")
    print("\n| | version | n | median kvsim / peer | its spread | microseconds a call |\n|---|---|--:|--:|--:|--:|")
    for name, one in answers.items():
        both = [row for row in rows if row["kvsim"] is not None and row[name] is not None]
        ratios = [row["kvsim"] / row[name] for row in both]
        spread = math.exp(median(abs(math.log(ratio / median(ratios))) for ratio in ratios)) - 1
        print(
            f"| {name} | {one['version']} | {len(both)} | {median(ratios):.2f} | {spread:.0%} | {one['call_us']:,.0f} |"
        )


if __name__ == "__main__":
    main()
