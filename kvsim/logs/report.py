"""What a reader saw: counts, skips with their reasons, and how much was estimated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

#: How many messages about dropped records are kept.
_FIRST = 10


@dataclass
class ReadReport:
    """Counts of one :func:`kvsim.read`, over all its files.

    A *record* is the smallest thing a format logs a model call with: a line, a request, a message, an event. Every
    record seen ends in exactly one of ``used`` (its content is in a turn), ``skipped`` (it is no call by design of the
    format; keyed by a short reason) and ``dropped`` (bad, and left out because lenient reading was asked for; keyed by
    the field at fault): :attr:`adds_up`. ``flagged`` counts turns that were kept but deserve a remark (output 0, stale
    output counts, a clock going backwards inside a log).
    """

    files: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    """Files by format."""
    records: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    tool_results: int = 0
    """Tool results seen, those after the last call of a log included."""
    counted_with: str = ""
    """How tokens of text without logged counts were counted: a tokenizer's name, or "characters/3.5"."""
    first_dropped: list[str] = field(default_factory=list)
    """Messages of the first few dropped records."""

    @property
    def adds_up(self) -> bool:
        """Whether every record seen is accounted for."""
        return self.records == self.used + self.skipped.total() + self.dropped.total()

    def use(self, records: int = 1) -> None:
        """Count records whose content went into turns."""
        self.records += records
        self.used += records

    def skip(self, reason: str, records: int = 1) -> None:
        """Count records that hold no call by design."""
        self.records += records
        self.skipped[reason] += records

    def flag(self, remark: str) -> None:
        """Count a turn that deserves a remark."""
        self.flagged[remark] += 1

    def drop(self, error: Exception, records: int = 1) -> None:
        """Count bad records left out, keeping the first messages."""
        self.records += records
        self.dropped[getattr(error, "field", None) or "format"] += records
        if len(self.first_dropped) < _FIRST:
            self.first_dropped.append(str(error))

    def drop_used(self, error: Exception, records: int) -> None:
        """Turn records counted as used into dropped ones (a trajectory found wrong after it was read)."""
        self.records -= records
        self.used -= records
        self.drop(error, records)

    def checkpoint(self) -> tuple[int, int, int, Counter[str], Counter[str]]:
        """The counts as they stand, to return to with :meth:`restore`."""
        return self.records, self.used, self.tool_results, Counter(self.skipped), Counter(self.flagged)

    def restore(self, earlier: tuple[int, int, int, Counter[str], Counter[str]]) -> None:
        """Return to the counts of an earlier :meth:`checkpoint`; what was dropped stays counted."""
        self.records, self.used, self.tool_results, self.skipped, self.flagged = earlier
