"""Rates and ratios from one pytest-benchmark JSON file: `python bench/ratios.py estimate.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(path: str) -> None:
    report = json.loads(Path(path).read_text())
    rows = [(bench["extra_info"], bench["stats"]) for bench in report["benchmarks"]]
    median = {info["role"]: stats["median"] for info, stats in rows}
    plain = median.get("plain")
    cpu = report["machine_info"]["cpu"]
    print(f"{cpu.get('brand_raw', '?')}, {cpu.get('count', '?')} cores, {report['datetime'][:10]}\n")
    print("| job | turns | rounds | median | turns/s | x plain pass | of native |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for info, stats in rows:
        role, turns = info["role"], info["turns"]
        native = median.get(role.replace("numba", "native"))
        times = f"{stats['median'] / plain:.1f}" if plain and turns > 1000 else ""
        share = f"{native / stats['median']:.2f}" if "numba" in role and native else ""
        rate = f"{turns / stats['median'] / 1e6:.1f} M"
        shown = f"{stats['median'] * 1e3:.1f} ms" if stats["median"] > 1e-3 else f"{stats['median'] * 1e6:.1f} us"
        print(f"| {role} | {turns:,} | {stats['rounds']} | {shown} | {rate} | {times} | {share} |")


if __name__ == "__main__":
    main(sys.argv[1])
