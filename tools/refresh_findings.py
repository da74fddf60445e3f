"""Write into docs/findings.md what its commands print, as it is now: ``python tools/refresh_findings.py``.

Logs that do not ship with kvsim are looked for in the folder ``KVSIM_SHARED``, or in ``../shared``; what is printed
about one that is not there stays as it is. The prose between the outputs quotes them: read it again.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
SHOWN = re.compile(r"```console\n\$ (kvsim .*)\n((?:.*\n)*?)```")

#: Logs by the name that the page gives them, and where they are in the shared folder.
CORPORA = {
    "kv-cache-tester.jsonl.gz": "data/traces/kv-cache-tester/all_710_requests_derived.jsonl.gz",
    "gpt-4o-airline.json": "data/traces/tau-bench/gpt-4o-airline.json",
}


def printed(command: str, folder: str) -> str:
    """What a command prints at 80 columns in a folder, without spaces at line ends."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        env=os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def refreshed(text: str, shared: Path) -> str:
    """The page's text with the output of all commands renewed whose logs are there."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tests").symlink_to(ROOT / "tests")
        for name, path in CORPORA.items():
            (Path(folder) / name).symlink_to((shared / path).resolve())

        def renewed(block: re.Match[str]) -> str:
            command = block[1]
            if not (Path(folder) / shlex.split(command)[2]).exists():
                return block[0]
            return f"```console\n$ {command}\n{printed(command, folder)}```"

        return SHOWN.sub(renewed, text)


if __name__ == "__main__":
    shared = Path(os.environ.get("KVSIM_SHARED", ROOT.parent / "shared"))
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8"), shared), encoding="utf-8")
