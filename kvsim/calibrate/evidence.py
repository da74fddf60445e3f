"""Measured times and what the law says about them: engine steps and lone requests, and requests under load.

Times that a client saw hold its way to the engine and back: the overhead ``request_s``, and ``client_token_s`` a prompt
token, a nuisance that is fitted along and no part of a calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.engine_kernels import Served
from ..backends.workload import Starts
from ..trajectory import Batch
from .deployment import Deployment
from .prior import Belief
from .robust import Array
from .work import Work

CLIENT: Mapping[str, Belief] = {"client_token_s": Belief(1e-7, 2.5, 1e-10, 1e-3)}
"""A client's way by the length of the prompt, through server and tokenizer."""


@dataclass(frozen=True)
class Timed:
    """Steps, or lone requests that are sums of steps. ``client_tokens`` are the prompt tokens of a row that a client
    timed, -1 where the engine did."""

    kind: str
    regime: str
    deployment: Deployment
    work: Work
    measured: Array
    groups: npt.NDArray[Any]
    places: Sequence[str]
    client_tokens: Array

    def predict(self, values: Mapping[str, float]) -> Array:
        """Seconds of all rows."""
        return self.work.seconds(self.deployment.costs(values)) + client_s(values, self.client_tokens)

    def settle(self, values: Mapping[str, float]) -> float:
        """Nothing to simulate."""
        return 0.0


@dataclass
class Loaded:
    """Requests under load, simulated: their turns, and how measured rows come from what the simulation says.

    Simulations are costly and their times have jumps, so that between two of them a row's time is taken to grow as
    that of ``work``, the row's own steps: at the end of a fit the two agree, and what is compared is the simulation.
    """

    kind: str
    deployment: Deployment
    batch: Batch
    starts: Starts
    seen: Callable[[Served], Array]
    """Seconds of each row, the client's way left out."""
    work: Work
    measured: Array
    groups: npt.NDArray[Any]
    places: Sequence[str]
    client_tokens: Array
    regime: str = "queued"
    _ratio: Array | None = field(default=None, repr=False)

    def predict(self, values: Mapping[str, float]) -> Array:
        """Seconds of all rows."""
        own = self.work.seconds(self.deployment.costs(values))
        ratio = 1.0 if self._ratio is None else self._ratio
        return np.asarray(own * ratio + client_s(values, self.client_tokens))

    def settle(self, values: Mapping[str, float]) -> float:
        """Simulate at these values; how far any row moved from what had been expected."""
        before = self.predict(values)
        simulated = self.seen(self.deployment.serve(self.batch, self.starts, values))
        self._ratio = simulated / self.work.seconds(self.deployment.costs(values))
        return float(np.max(np.abs(self.predict(values) / before - 1), initial=0.0))


@dataclass(frozen=True)
class Together:
    """Loads of one kind, whose noise is one."""

    kind: str
    parts: Sequence[Loaded]
    regime: str = "queued"

    @property
    def measured(self) -> Array:
        """Seconds."""
        return np.concatenate([part.measured for part in self.parts])

    @property
    def groups(self) -> npt.NDArray[Any]:
        """Of all parts."""
        return np.concatenate([part.groups for part in self.parts])

    @property
    def places(self) -> list[str]:
        """Of all parts."""
        return [place for part in self.parts for place in part.places]

    def predict(self, values: Mapping[str, float]) -> Array:
        """Seconds of all rows."""
        return np.concatenate([part.predict(values) for part in self.parts])

    def settle(self, values: Mapping[str, float]) -> float:
        """Simulate all."""
        return max(part.settle(values) for part in self.parts)


def together(loads: Sequence[Loaded]) -> list[Together]:
    """Loads by their kind."""
    kinds = dict.fromkeys(load.kind for load in loads)
    return [Together(kind, [load for load in loads if load.kind == kind]) for kind in kinds]


def single(evidence: Sequence[Timed | Together]) -> list[Timed | Loaded]:
    """Steps and single loads."""
    return [one for part in evidence for one in (part.parts if isinstance(part, Together) else [part])]


def client_s(values: Mapping[str, float], tokens: Array) -> Array:
    """A client's way by prompt tokens; 0 where they are negative."""
    way = values["request_s"] + values["client_token_s"] * tokens
    return np.asarray(np.where(tokens >= 0, way, 0.0))
