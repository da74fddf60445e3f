"""Write into README.md what it quotes, as it is now: ``python tools/refresh_readme.py``.

Between ``<!-- demo:start -->`` and its end, and likewise for the other names in :data:`COMMANDS`, what the command
prints; between ``<!-- accuracy:start -->`` and its end the held-out errors of the shipped calibrations.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from math import exp
from pathlib import Path

from kvsim.calibration import Residual, shipped_calibration
from kvsim.hardware import gpus

README = Path(__file__).parents[1] / "README.md"


SESSIONS = "tests/data/logs/kv-cache-tester/sessions.jsonl.gz"
COMMANDS = {
    "demo": ["demo"],
    "cliff": ["sweep", SESSIONS, "-m", "meta-llama/Llama-3.1-8B-Instruct", "-g", "h100-sxm", "--cliff"],
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


def accuracy() -> str:
    """A row for each GPU with held-out points, as a Markdown table."""
    rows = []
    for name in gpus():
        residuals = shipped_calibration(name).residuals
        if any(residual.n for residual in residuals.values()):
            rows.append(f"| {name} | {_cell(residuals['prefill'])} | {_cell(residuals['decode'])} |\n")
    return "| GPU | prefill | decode |\n|---|---|---|\n" + "".join(rows)


def _cell(residual: Residual) -> str:
    if not residual.n:
        return "nothing held out"
    low, middle, high = (f"{round(100 * (exp(value) - 1)):+d}" for value in (residual.q05, residual.q50, residual.q95))
    return f"{low} to {high} %, median {middle} % (n = {residual.n:,})"


def refreshed(text: str) -> str:
    """The README's text with all parts renewed."""
    parts = {name: shown(arguments) for name, arguments in COMMANDS.items()} | {"accuracy": accuracy()}
    for name, part in parts.items():
        start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
        text = re.sub(f"{start}.*?{end}", lambda _, new=start + part + end: new, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text(encoding="utf-8")), encoding="utf-8")
