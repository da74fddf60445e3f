"""The report of 1,000 trajectories: how long it takes to build, how large it is, how soon a browser paints it.

    cd bench && python report_page.py [--trajectories 1000] [--turns 50] [--loads 5]

Builds in processes of their own (reading the log included), and opens each page so often in a fresh Chromium.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kvsim import Batch

TOOLS = ("execute_bash", "str_replace_editor", "web_search", "browser", "python", "think", "grep", "finish")
PRICED = ["-m", "meta-llama/Llama-3.1-8B-Instruct", "-g", "h100-sxm"]
WAYS = {"estimate": ["--load", "kv=ttl:30"], "simulation": ["--arrivals", "closed:64"]}


def report_runs(trajectories: int, turns: int, seed: int = 0) -> Batch:
    """So many linear trajectories of ``turns`` turns on average (half to one and a half of it), lognormal pauses."""
    random = np.random.default_rng(seed)
    lengths = random.integers(turns // 2, turns + turns // 2 + 1, trajectories)
    rows = int(lengths.sum())
    owner = np.repeat(np.arange(trajectories), lengths)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    row = np.arange(rows)
    root = row == first[owner]
    tool = np.where(root, -1, random.integers(0, len(TOOLS), rows))
    response = np.clip(random.lognormal(5.5 + 0.25 * np.maximum(tool, 0), 1.0), 1, 4_000).astype(np.int64)
    new = np.where(root, random.integers(2_000, 6_000, rows), response)
    output = random.integers(30, 400, rows)
    through = np.cumsum(new + output)
    prompt = through - output - (through - new - output)[first][owner]
    segments = [
        [("system", -1, 1_500), ("user", -1, int(tokens) - 1_500)] if starts else [("tool", int(name), int(tokens))]
        for starts, name, tokens in zip(root, tool, new, strict=True)
    ]
    return Batch.from_columns(
        parent=np.where(root, -1, row - 1),
        kept_tokens=np.where(root, 0, prompt - new),
        prompt_tokens=prompt,
        output_tokens=output,
        pause_ns=np.where(root, 0, (random.lognormal(0.5, 1.5, rows) * 1e9).astype(np.int64)),
        arrival_ns=np.where(root, owner * 2_000_000_000, 0),
        trajectory=owner,
        tool=tool,
        segments=segments,
        ids=[f"task-{number:04d}" for number in range(trajectories)],
        tool_names=list(TOOLS),
    )


def built(log: Path, page: Path, way: list[str]) -> tuple[float, float]:
    """Seconds of wall and of CPU that the command took."""
    before, begun_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "kvsim", "report", str(log), *PRICED, *way, "-o", str(page), "--force"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begun_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def painted(page: Path, loads: int) -> dict[str, float]:
    """Medians over loads, ms: first contentful paint, data there, and a filter typed."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {"first paint": [], "ready": [], "filter": []}
    with sync_playwright() as playwright:
        for _ in range(loads):
            sandbox = [] if os.getuid() else ["--no-sandbox"]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
            tab = browser.new_page()
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("html[data-ready=yes]")
            found["ready"].append(tab.evaluate("performance.now()"))
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            found["first paint"].append(tab.evaluate(paint))
            filter = "(begun => (goTo({ filter: '99' }), performance.now() - begun))(performance.now())"
            found["filter"].append(tab.evaluate(filter))
            browser.close()
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--loads", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log, page = Path(folder) / "runs.jsonl", Path(folder) / "report.html"
        batch = report_runs(asked.trajectories, asked.turns)
        batch.to_jsonl(log)
        print(f"{len(batch):,} trajectories, {batch.turns:,} turns, log of {log.stat().st_size / 1e6:.1f} MB")
        print(
            "| way | built, s (CPU s) | MB | first paint, ms | data ready, ms | filter, ms |\n|---|--:|--:|--:|--:|--:|"
        )
        for name, way in WAYS.items():
            wall_s, cpu_s = built(log, page, way)
            ms = painted(page, asked.loads)
            figures = [f"{wall_s:.1f} ({cpu_s:.1f})", f"{page.stat().st_size / 1e6:.2f}"]
            print(
                "|",
                " | ".join([name, *figures, *(f"{ms[key]:.0f}" for key in ("first paint", "ready", "filter"))]),
                "|",
            )


if __name__ == "__main__":
    main()
