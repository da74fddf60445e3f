"""Write into README.md and docs/compare.md what they quote, as it is now: ``python tools/refresh_readme.py``.

Between ``<!-- demo:start -->`` and its end, and likewise for the other names in :data:`COMMANDS`, what the command
prints; between ``<!-- accuracy:start -->`` and its end the errors of the shipped calibrations by GPU and regime, and
between ``<!-- peer:start -->`` and its end those next to AIConfigurator's on the same points, as
bench/peers/aiconfigurator_points.py left them.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kvsim._markdown import markdown_table
from kvsim.commands._accuracy import markdown
from kvsim.validation import Point, accuracy, shipped_points, summary

README = Path(__file__).parents[1] / "README.md"
PAGES = (README, README.parent / "docs" / "compare.md")

SESSIONS = "tests/data/logs/kv-cache-tester/sessions.jsonl.gz"
COMMANDS = {
    "demo": ["demo"],
    "cliff": ["sweep", SESSIONS, "-m", "meta-llama/Llama-3.1-8B-Instruct", "-g", "h100-sxm", "--cliff"],
    "compare": [
        *("compare", "tests/data/compare/trials-0-1.jsonl.gz", "tests/data/compare/trials-2-3.jsonl.gz"),
        *("--scores", "tests/data/compare/scores.csv", "-m", "Qwen/Qwen3-8B", "-g", "h100-sxm", "--top", "0"),
    ],
}


def shown(arguments: list[str]) -> str:
    """What a command prints at 80 columns, without spaces at line ends."""
    command = [sys.executable, "-m", "kvsim", *arguments]
    environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(README.parent)}
    done = subprocess.run(
        command, env=environment, cwd=README.parent, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    lines = "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())
    return f"```console\n$ {shlex.join(['kvsim', *arguments])}\n{lines}```\n"


def usual_points() -> list[Point]:
    """The points of deployments that go the way the law prices."""
    return [point for point in shipped_points() if not point["path"]]


def accuracy_table() -> str:
    """A row for each GPU and regime, as a Markdown table."""
    by = ("gpu", "regime")
    return markdown(by, summary(usual_points(), by))


def peer_table() -> str:
    """A row for each GPU and regime that AIConfigurator can answer points of: its error and ours, held out."""
    with (README.parent / "bench" / "peers" / "aiconfigurator.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    key = [name for name in answers[0] if name != "seconds"]
    peer = {tuple(_plain(row[name]) for name in key): float(row["seconds"]) for row in answers}
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in usual_points():
        seconds = peer.get(tuple(_plain(point[name]) for name in key))
        if seconds is not None:
            groups.setdefault((str(point["gpu"]), str(point["regime"])), []).append(point | {"peer_s": seconds})
    peer_name = "AIConfigurator 0.12: median"
    rows = [["gpu", "regime", "n", "kvsim, held out: median", "MAPE", "bias", peer_name, "MAPE", "bias"]]
    for (gpu, regime), points in sorted(groups.items()):
        figures = [
            f"{100 * figure:{sign}.1f} %"
            for column in ("held_out_s", "peer_s")
            for figure, sign in zip(accuracy(points, column)[1:4], ("", "", "+"), strict=True)
        ]
        rows.append([gpu, regime, str(len(points)), *figures])
    return markdown_table(rows)


def _plain(value: str | float) -> str:
    try:
        return f"{float(value):.5g}"
    except ValueError:
        return str(value)


def refreshed(text: str) -> str:
    """A page's text with all of its parts renewed."""
    parts: dict[str, Callable[[], str]] = {
        **{name: partial(shown, arguments) for name, arguments in COMMANDS.items()},
        "accuracy": accuracy_table,
        "peer": peer_table,
    }
    for name, part in parts.items():
        start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
        if start in text:
            new = start + part() + end
            text = re.sub(f"{start}.*?{end}", lambda _, new=new: new, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
