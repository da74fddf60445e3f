"""How long tools take where nobody measured it: declared per tool, as a number or a distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim._door import MAX_NS, SEGMENT_KINDS
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.trajectory import Batch, Ints

#: Stands for every tool without a duration of its own.
ANY_TOOL = "*"

_REMEDY = "Give seconds, a list of observed seconds, or {'median': seconds, 'p90': seconds}, for each tool and '*'"

#: Seconds; observed seconds; or the median and 90 % quantile of a log-normal distribution.
Duration = float | Sequence[float] | Mapping[str, float]


class Durations:
    """Declared durations of tools, by name; ``"*"`` is every other tool.

    Every pause that was not measured lasts the mean of its tool's distribution: a draw would put noise into the
    differences between rollouts. Where several tools answered at once, the longest counts.
    """

    def __init__(self, declared: Mapping[str, Duration]) -> None:
        if not isinstance(declared, Mapping):
            raise InputError(f"{declared!r} maps no tools", field="durations", remedy=_REMEDY)
        self._ns = {name: _mean_ns(name, duration) for name, duration in declared.items()}

    def of(self, tool: str | None) -> int | None:
        """Nanoseconds of a tool's pause, None where neither it nor ``"*"`` is declared."""
        own = self._ns.get(tool) if tool is not None else None
        return own if own is not None else self._ns.get(ANY_TOOL)

    def pauses(self, batch: Batch, rows: Ints) -> Ints:
        """Nanoseconds of the pauses before these rows, -1 where no declaration fits, shape (len(rows),)."""
        table = np.array([_or_unknown(self.of(name)) for name in batch.tool_names] + [_or_unknown(self.of(None))])
        tool = batch.tool if batch.tool is not None else np.full(batch.turns, -1)
        longest: npt.NDArray[Any] = table[tool]
        if batch.segments is not None:
            parts = batch.segments.kind == SEGMENT_KINDS.index("tool")
            owners, answered = batch.segments.owners[parts], table[batch.segments.tool[parts]]
            longest[owners] = -1
            np.maximum.at(longest, owners, answered)
        found: Ints = longest[rows]
        return found


def _or_unknown(nanoseconds: int | None) -> int:
    return -1 if nanoseconds is None else nanoseconds


def _mean_ns(name: str, duration: Duration) -> int:
    try:
        if isinstance(duration, Mapping):
            median, p90 = float(duration["median"]), float(duration["p90"])
            if set(duration) != {"median", "p90"} or not 0 < median <= p90:
                raise ValueError
            sigma = math.log(p90 / median) / NormalDist().inv_cdf(0.9)
            seconds = median * math.exp(sigma * sigma / 2)
        else:
            observed = np.asarray(duration, np.float64).reshape(-1)
            if not observed.size or not (observed >= 0).all():
                raise ValueError
            seconds = float(observed.mean())
        if not seconds * 1e9 <= MAX_NS:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{duration!r} is no duration of {name!r}", field="durations", remedy=_REMEDY) from None
    return round(seconds * 1e9)
