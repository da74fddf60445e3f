"""The break-even pause: from which pause on recomputing a context costs less than keeping it.

Keeping the KV of a context of L tokens through a pause of P seconds takes L x P token-seconds of a cache that other
turns then cannot use: they wait. Dropping it costs one prefill of L tokens. Both are found by simulating the same
trajectories with their pauses scaled, once with every context kept (pin) and once with every context dropped (drop);
lru, which keeps what nobody else needs, stands beside them. The break-even is the mean pause from which on ``drop`` has
the shorter mean time in the model (queue included, pauses not), and likewise the more turns a second: interpolated
between the simulated pauses, linear in the logarithms of pause and ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, exp, log
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class BreakEven:
    """Mean pauses in seconds from which on ``dropping`` beats ``keeping`` on one deployment and load.

    ``by_model_s`` goes by the mean time of trajectories in the model, ``by_turns_per_s`` by throughput; None where it
    does not at the longest pause that was tried, 0 where it does at all of them. ``point`` has no retention and pause
    of its own. ``fastest`` is the policy with the least mean time in the model at the logged pauses, None if they were
    not tried.
    """

    point: Point
    keeping: str
    dropping: str
    by_model_s: float | None
    by_turns_per_s: float | None
    shortest_pause_s: float
    longest_pause_s: float
    fastest: str | None

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"point": {**asdict(self.point), "retention": None, "pause_scale": None}}


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

    def from_pause(cost: Callable[[Row], float]) -> float | None:
        return crossing(pauses_s, [log(cost(one) / cost(other)) for one, other in zip(kept, dropped, strict=True)])

    logged = {policy: found[1.0] for policy, found in by_policy.items() if 1.0 in found}
    return BreakEven(
        point,
        keeping,
        dropping,
        from_pause(mean_model_s),
        from_pause(lambda row: 1 / float(row["turns_per_s"])),
        pauses_s[0],
        pauses_s[-1],
        min(logged, key=lambda policy: mean_model_s(logged[policy])) if logged else None,
    )


def crossing(pauses_s: Sequence[float], gains: Sequence[float]) -> float | None:
    """The pause from which on gains are above 0: 0 if all are, None if the last is not."""
    first = len(gains)
    while first and gains[first - 1] > 0:
        first -= 1
    if first == len(gains):
        return None
    if first == 0:
        return 0.0
    low, high = gains[first - 1], gains[first]
    begin, end = log(pauses_s[first - 1]), log(pauses_s[first])
    return exp(begin - low / (high - low) * (end - begin))
