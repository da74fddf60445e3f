"""Tool definitions said in fewer words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kvsim._door import SEGMENT_KINDS
from kvsim.insight.what_if.change import AgentChange
from kvsim.insight.what_if.edits import Cuts, Edits

if TYPE_CHECKING:
    from kvsim.trajectory import Batch, Ints

_TOOLS = SEGMENT_KINDS.index("tools")


@dataclass(frozen=True)
class ShortenTools(AgentChange):
    """Tool definitions at the head of every context, ``share`` of their tokens less."""

    kind: ClassVar[str] = "tools"

    share: float = 0.5

    def edits(self, batch: Batch) -> Edits:
        rows, begin, tokens = definitions(batch)
        cut = np.floor(tokens * self.share).astype(np.int64)
        none = np.zeros(len(rows), np.int64)
        return Edits(1, cuts=Cuts(none, rows, begin + tokens - cut, begin + tokens, none, none, none - 1))


def definitions(batch: Batch) -> tuple[Ints, Ints, Ints]:
    """The rows that read tool definitions anew, where in their prompts these begin, and of how many tokens they are.

    Of a row that reads several stretches of them the first.
    """
    parts = batch.segments
    if parts is None:
        none = np.zeros(0, np.int64)
        return none, none, none
    at = np.flatnonzero(parts.kind == _TOOLS)
    rows, first = np.unique(parts.owners[at], return_index=True)
    at = at[first]
    before = np.concatenate([[0], np.cumsum(parts.tokens)])
    begin = batch.kept_tokens[rows] + before[at] - before[parts.offsets[rows]]
    return rows, begin, parts.tokens[at]
