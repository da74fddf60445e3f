"""Whether an engine is ours alone, and whether the machine stays as fast as it was."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from kvsim.live.engine import Counters

BACKGROUND = "background traffic"
THROTTLED = "throttled"
LATE = "tokens came late"
"""Flags of rows that are kept but not fitted."""

SLOWER = 1.25
"""So many times the usual reference counts as throttled, where it lies outside of the usual spread too."""

SPREADS = 4.0
"""Outside of the usual spread: so many times the median distance from the median."""

FEWEST = 4
"""References before anything is said about the next one."""

DRIFT = 0.1
"""Change of the reference from the first third of the time to the last that is worth a warning."""


def foreign_tokens(before: Counters | None, after: Counters | None, own: int) -> int:
    """Prompt tokens that others sent while we sent ``own``; 0 where the engine does not count."""
    if before is None or after is None:
        return 0
    return after.prompt_tokens - before.prompt_tokens - own


class References:
    """Times of the reference probe, in the order of measuring."""

    def __init__(self, seconds: Sequence[float] = ()) -> None:
        self._seconds = list(seconds)

    def __len__(self) -> int:
        return len(self._seconds)

    def add(self, seconds: Sequence[float]) -> bool:
        """Take another set of repeats; whether it shows the machine throttled."""
        before = list(self._seconds)
        self._seconds += seconds
        if len(before) < FEWEST:
            return False
        usual = median(before)
        spread = median(abs(value - usual) for value in before)
        now = min(seconds)  # one of them alone may have met a hiccup
        return now > SLOWER * usual and now > usual + SPREADS * spread

    def drift(self) -> float:
        """How much slower the last third is than the first, as a fraction; 0 with too few to tell."""
        third = len(self._seconds) // 3
        if third < 2:
            return 0.0
        return median(self._seconds[-third:]) / median(self._seconds[:third]) - 1

    def noise(self) -> float:
        """The median distance of a reference from their median, as a fraction."""
        if not self._seconds:
            return 0.0
        usual = median(self._seconds)
        return median(abs(value - usual) for value in self._seconds) / usual
