"""What a simulation is asked to serve its turns under: how they come, what stays cached."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.trajectory import Batch

ALONE = ""
"""The arrivals of trajectories that are estimated."""

_ARRIVALS = {
    "logged": "arrivals as logged",
    "poisson": "{} trajectory starts a second, at random (Poisson, seed {})",
    "closed": "{} in flight, tool pauses included; when one ends the next starts",
    "batch": "{} at a time; when the slowest has ended the next start",
}
"""The patterns that can be said in words."""


@dataclass(frozen=True)
class Traffic:
    """Arguments of :func:`kvsim.simulate`, by its names."""

    arrivals: str = "logged"
    retention: str = "lru"
    replicas: int = 1
    router: str = "round-robin"
    speedup: float = 1.0
    stagger_s: float = 0.0
    seed: int = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """As keyword arguments."""
        return asdict(self)

    def fact(self) -> str:
        """The traffic in words."""
        kind, _, given = self.arrivals.partition(":")
        comes = _ARRIVALS[kind].format(given, self.seed) if kind in _ARRIVALS else self.arrivals
        facts = [f"{comes}; retention {self.retention}"]
        facts += [f"logged arrivals {self.speedup:g} times as fast"] if self.speedup != 1 else []
        facts += [f"first starts {self.stagger_s:g} s apart"] if self.stagger_s else []
        facts += [f"{self.replicas} replicas, {self.router}"] if self.replicas > 1 else []
        return "; ".join(facts)


def one_turn() -> Batch:
    """The smallest batch: what is wrong with a simulation's other arguments shows on it before a long read."""
    from kvsim.trajectory import Batch

    return Batch.from_trajectories([{"id": "one", "turns": [{"prompt_tokens": 1, "output_tokens": 1}]}])
