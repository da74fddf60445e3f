"""What a reader saw: counts, skips with their reasons, and how much was estimated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class ReadReport:
    """Counts of one :func:`kvsim.read`; merged over files.

    ``skipped`` counts records that hold no turn by design of the format (keyed by a short reason);
    ``dropped`` counts bad records left out because lenient reading was asked for; ``flagged`` counts turns that were
    kept but deserve a remark (output 0, stale output counts, a clock going backwards inside a log).
    """

    files: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    first_dropped: list[str] = field(default_factory=list)
    """Messages of the first few dropped records."""

    def drop(self, error: Exception) -> None:
        """Count a bad record left out, keeping the first messages."""
        self.dropped[type(error).__name__] += 1
        if len(self.first_dropped) < 10:
            self.first_dropped.append(str(error))
