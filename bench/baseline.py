"""Ratios of one benchmark run beside stored ones: another machine, or a busy one, has other seconds, not other ratios.

    cd bench && pytest --benchmark-json=run.json && python baseline.py check run.json [--tolerance 0.5]
    cd bench && python baseline.py store run.json

A ratio is a benchmark's time a turn over that of the plain one beside it: the one that its role names after a slash,
else the file's "plain", "preparation", or first one. ``check`` fails where one is more than the tolerance above the
stored one; medians on a shared machine differ by a third. Only benchmarks of the run are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

STORED = Path(__file__).resolve().parent / "baseline.json"
TOLERANCE = 0.5


def ratios(report: dict[str, Any]) -> dict[str, float]:
    """By file and role."""
    files: dict[str, dict[str, float]] = {}
    for bench in report["benchmarks"]:
        file = bench["fullname"].split("::")[0].rpartition("/")[2].removesuffix(".py")
        info = bench["extra_info"]
        files.setdefault(file, {})[info["role"]] = bench["stats"]["median"] / info["turns"]
    found = {}
    for file, times in files.items():
        plain = next((name for name in ("plain", "preparation") if name in times), next(iter(times)))
        for role, time in times.items():
            beside = role.partition(" / ")[2] or plain
            if beside in times and beside != role:
                found[f"{file}: {role.partition(' / ')[0]} / {beside}"] = time / times[beside]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("check", "store"))
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="pytest-benchmark's JSON")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    asked = parser.parse_args()
    found: dict[str, float] = {}
    for run in asked.runs:
        found |= ratios(json.loads(run.read_text()))
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if asked.what == "store":
        kept = {**stored, **{name: float(f"{ratio:.3g}") for name, ratio in found.items()}}
        STORED.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
        print(f"{len(found)} ratios in {STORED.name}")
        return 0
    print("| benchmark / beside | ratio | stored | change |\n|---|--:|--:|--:|")
    worse = []
    for name, ratio in found.items():
        before = stored.get(name)
        change = f"{ratio / before - 1:+.0%}" if before else "new"
        print(f"| {name} | {ratio:.3g} | {f'{before:.3g}' if before else '-'} | {change} |")
        if before and ratio > before * (1 + asked.tolerance):
            worse.append(name)
    if worse:
        print(f"\nmore than {asked.tolerance:.0%} above the baseline:", *worse, sep="\n  ")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
