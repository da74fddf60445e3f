"""Peers in virtual environments of their own, made when first asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "peers"
"""Git ignores it."""


class MissingPeerError(Exception):
    """A peer that could not be installed or run here; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A peer and what pip installs for it: ``alone`` without its dependencies, then ``others`` with theirs."""

    name: str
    others: Sequence[str] = ()
    alone: Sequence[str] = ()

    def python(self, folder: Path = FOLDER) -> Path:
        """The interpreter of its environment, which is made if it is not there whole."""
        home = folder / self.name
        python, whole = home / "bin" / "python", home / "installed"
        wanted = "\n".join([*self.alone, *self.others])
        if whole.exists() and whole.read_text() == wanted:
            return python
        print(f"installing {self.name} into {home}", file=sys.stderr, flush=True)
        self._run([sys.executable, "-m", "venv", str(home)])
        if self.alone:
            self._run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *self.alone])
        if self.others:
            self._run([str(python), "-m", "pip", "install", "--quiet", *self.others])
        whole.write_text(wanted)
        return python

    def output(self, command: Sequence[str], timeout_s: float = 1800) -> str:
        """What a program prints, in whose environment it is."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingPeerError(f"{self.name}: {error}") from None
        if done.returncode:
            raise MissingPeerError(f"{self.name}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
        return done.stdout

    def _run(self, command: Sequence[str]) -> None:
        self.output(command)


DYNAMO = Peer(
    "dynamo",
    # The wheels' dependencies are those of a whole serving framework; replay needs only these.
    alone=("ai-dynamo==1.6.1", "ai-dynamo-runtime==1.6.1"),
    others=(
        *("msgspec", "typing-extensions", "prometheus-client<1", "pyzmq", "tqdm", "pydantic<=2.13.5"),
        *("uvloop", "aiohttp", "pyyaml"),
    ),
)
KVCACHE_SIMULATOR = Peer("kvcache-simulator", others=("kvcache-simulator==0.1.3",))
LIBCACHESIM = Peer("libcachesim", others=("libcachesim==0.3.5",))
AICONFIGURATOR = Peer("aiconfigurator", others=("aiconfigurator==0.12.0",))
GENZ = Peer("genz", others=("genz-llm==0.0.16",))
