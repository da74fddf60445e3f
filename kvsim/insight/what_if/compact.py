"""A context replaced by a summary of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvsim.backends.contexts import sealed
from kvsim.insight.what_if.change import AgentChange
from kvsim.insight.what_if.edits import Cuts, Edits, Summaries
from kvsim.insight.what_if.families import levels
from kvsim.trajectory import Batch, Ints

#: What asking for a summary takes, in tokens.
ASKED_TOKENS = 100
SUMMARY_TOKENS = 1000


@dataclass(frozen=True)
class Compact(AgentChange):
    """Before each of ``rows`` a turn writes a summary of ``summary_tokens`` of the context so far.

    The row then reads the head (what the first turn of its context was sent: system prompt, tool definitions, task),
    the summary, and what it read anew. The summary's own turn is priced too: it reads the whole context once more.
    """

    kind: ClassVar[str] = "compact"

    rows: tuple[int, ...] = ()
    summary_tokens: int = SUMMARY_TOKENS

    def edits(self, batch: Batch) -> Edits:
        rows = np.array(sorted(self.rows), np.int64)
        none = np.zeros(len(rows), np.int64)
        head, owner = _heads(batch)
        return Edits(
            1,
            cuts=Cuts(none, rows, head[rows], batch.kept_tokens[rows], none + self.summary_tokens, none, owner[rows]),
            summaries=Summaries(none, rows, none + ASKED_TOKENS, none + self.summary_tokens),
        )


def heads(batch: Batch) -> Ints:
    """How much of the prompt that its context began with each row still holds, shape (rows,)."""
    return _heads(batch)[0]


def _heads(batch: Batch) -> tuple[Ints, Ints]:
    """The same, and the first turn of each row's context."""
    return batch.once("heads", None, lambda: sealed(_found_heads(batch)))


def _found_heads(batch: Batch) -> tuple[Ints, Ints]:
    head = np.where(batch.parent < 0, batch.prompt_tokens, batch.kept_tokens)
    first = np.arange(batch.turns)
    above = batch.parent.copy()
    while (climbing := np.flatnonzero(above >= 0)).size:
        over = above[climbing]
        least, begun, further = head[over], first[over], above[over]
        head[climbing] = np.minimum(head[climbing], least)
        first[climbing] = begun
        above[climbing] = further
    return head, first


def compactable(batch: Batch, summary_tokens: int = SUMMARY_TOKENS) -> Ints:
    """The rows before which a summary would shorten the context."""
    return np.flatnonzero((batch.parent >= 0) & (batch.kept_tokens > heads(batch) + summary_tokens))


def rows_beyond(batch: Batch, tokens: int, depth: Ints, summary_tokens: int = SUMMARY_TOKENS) -> Ints:
    """The rows at which a context would be compacted, if it is whenever a prompt comes to more than ``tokens``.

    ``depth`` (rows,) as in :class:`~kvsim.insight.what_if.families.Families`. A head that is itself too long stays.
    """
    head = heads(batch)
    shift = np.zeros(batch.turns, np.int64)
    compacted = np.zeros(batch.turns, bool)
    for rows in levels(depth)[1:]:
        kept, now = batch.kept_tokens[rows], shift[batch.parent[rows]]
        long = (batch.prompt_tokens[rows] + now > tokens) & (kept + now > head[rows] + summary_tokens)
        compacted[rows] = long
        shift[rows] = np.where(long, head[rows] + summary_tokens - kept, np.where(kept > head[rows], now, 0))
    return np.flatnonzero(compacted)
