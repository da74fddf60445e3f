"""The break-even pause: from which pause on recomputing a context costs less than keeping it.

Keeping the KV of a context of L tokens through a pause of P seconds takes L x P token-seconds of a cache that other
turns then cannot use: they wait. Dropping it costs one prefill of L tokens. Both are found by simulating the same
trajectories with their pauses scaled, once with every context kept (pin) and once with every context dropped (drop);
lru, which keeps what nobody else needs, stands beside them. The break-even is the mean pause from which on ``drop`` has
the shorter mean time in the model (queue included, pauses not), and likewise the more turns a second: interpolated
between the simulated pauses, linear in the logarithms of pause and ratio. There may be none, or ``pin`` may be ahead
again where pauses are so long that few turns meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, exp, log
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvsim.commands.sweep._points import Point
from kvsim.commands.sweep._rows import OK, Row

if TYPE_CHECKING:
    from kvsim.engine import Engine
    from kvsim.trajectory import Batch

POLICIES = ("pin", "lru", "drop")
"""Compared unless others are asked for: the break-even is between the first, which keeps, and the last."""

PAUSE_SCALES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

PRESSURE = 2
"""By default as many trajectories are in flight as fill the KV cache that many times at their longest."""


def pressing(batch: Batch, engine: Engine, replicas: int) -> int:
    """How many trajectories in flight want :data:`PRESSURE` times the KV cache at their longest, at least 2.

    Where all contexts fit, keeping them costs nobody anything.
    """
    longest = np.zeros(len(batch), np.int64)
    np.maximum.at(longest, batch.trajectory, batch.prompt_tokens + batch.output_tokens)
    wanted = ceil(PRESSURE * replicas * engine.kv_capacity_tokens / float(longest.mean()))
    return min(max(wanted, 2), len(batch))


class Stretch(NamedTuple):
    """The policy that is ahead from a mean pause on, up to the next stretch; the first begins at 0."""

    from_pause_s: float
    ahead: str


@dataclass(frozen=True)
class BreakEven:
    """Which of two policies is ahead at which mean pause, on one deployment and load.

    ``by_model_s`` goes by the mean time of trajectories in the model, ``by_turns_per_s`` by throughput. ``point`` has
    no retention and pause of its own. ``fastest`` is the policy with the least mean time in the model at the logged
    pauses, None if they were not tried.
    """

    point: Point
    keeping: str
    dropping: str
    by_model_s: list[Stretch]
    by_turns_per_s: list[Stretch]
    shortest_pause_s: float
    longest_pause_s: float
    fastest: str | None

    def break_even_s(self, stretches: Sequence[Stretch]) -> float | None:
        """From which mean pause on ``dropping`` is ahead of ``keeping``, if there is one."""
        last = stretches[-1]
        return last.from_pause_s if last.ahead == self.dropping and len(stretches) > 1 else None

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self) | {"point": {**asdict(self.point), "retention": None, "pause_scale": None}}
        for name in ("by_model_s", "by_turns_per_s"):
            stretches = getattr(self, name)
            found[name] = {
                "break_even_s": self.break_even_s(stretches),
                "stretches": [stretch._asdict() for stretch in stretches],
            }
        return found


def mean_model_s(row: Row) -> float:
    """Mean time of a trajectory in the model: queue, prefill, recompute, decode."""
    return float(row["model_s"]) / float(row["trajectories"])


def break_even_of(point: Point, policies: Sequence[str], rows: Sequence[Row]) -> BreakEven | None:
    """The break-even among the rows of a deployment; None where no pause was simulated under both policies."""
    by_policy = {
        policy: {row["pause_scale"]: row for row in rows if row["retention"] == policy and row["status"] == OK}
        for policy in policies
    }
    keeping, dropping = policies[0], policies[-1]
    scales = sorted(by_policy[keeping].keys() & by_policy[dropping].keys())
    if not scales:
        return None
    kept, dropped = ([by_policy[policy][scale] for scale in scales] for policy in (keeping, dropping))
    pauses_s = [float(row["mean_pause_s"]) for row in kept]

    def ahead(cost: Callable[[Row], float]) -> list[Stretch]:
        gains = [log(cost(one) / cost(other)) for one, other in zip(kept, dropped, strict=True)]
        changes = [0.0, *crossings(pauses_s, gains)]
        order = (dropping, keeping) if gains[0] > 0 else (keeping, dropping)
        return [Stretch(pause_s, order[number % 2]) for number, pause_s in enumerate(changes)]

    logged = {policy: found[1.0] for policy, found in by_policy.items() if 1.0 in found}
    return BreakEven(
        point,
        keeping,
        dropping,
        ahead(mean_model_s),
        ahead(lambda row: 1 / float(row["turns_per_s"])),
        pauses_s[0],
        pauses_s[-1],
        min(logged, key=lambda policy: mean_model_s(logged[policy])) if logged else None,
    )


def crossings(pauses_s: Sequence[float], gains: Sequence[float]) -> list[float]:
    """The pauses at which gains begin or cease to be above 0."""
    found = []
    for at in range(1, len(gains)):
        low, high = gains[at - 1], gains[at]
        if (low > 0) != (high > 0):
            begin, end = log(pauses_s[at - 1]), log(pauses_s[at])
            found.append(exp(begin - low / (high - low) * (end - begin)))
    return found
