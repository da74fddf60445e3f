"""Write the current output of ``kvsim demo`` into README.md: ``python tools/refresh_readme.py``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- demo:start -->\n```console\n\$ kvsim demo\n).*?(```\n<!-- demo:end -->)", re.DOTALL)


def demo_output() -> str:
    """What ``kvsim demo`` prints at 80 columns, without spaces at line ends."""
    command = [sys.executable, "-m", "kvsim", "demo"]
    environment = os.environ | {"COLUMNS": "80"}
    shown = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout
    return "".join(line.rstrip() + "\n" for line in shown.splitlines())


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda found: found[1] + demo_output() + found[2], text), encoding="utf-8")
