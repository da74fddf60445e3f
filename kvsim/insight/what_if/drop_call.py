"""Tool calls that need not have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kvsim.insight.what_if.change import AgentChange
from kvsim.insight.what_if.edits import Cuts, Edits, Removals

if TYPE_CHECKING:
    from kvsim.trajectory import Batch


@dataclass(frozen=True)
class DropCalls(AgentChange):
    """Without the turns that made some calls, what their tools answered, and the pauses in which they did.

    ``rows`` are the turns that read the responses: each reads what the turn that made the call read, when that would
    have come. Calls made in one turn go together. (As :mod:`kvsim.backends.without_kernels` has it.)
    """

    kind: ClassVar[str] = "drop"

    rows: tuple[int, ...] = ()

    def edits(self, batch: Batch) -> Edits:
        gone = np.unique(batch.parent[list(self.rows)])
        removed = np.zeros(batch.turns, bool)
        removed[gone] = True
        above = batch.parent
        begin = batch.prompt_tokens[above]
        readers = np.flatnonzero((above >= 0) & removed[above] & (batch.kept_tokens >= begin))
        none = np.zeros(len(readers), np.int64)
        cuts = Cuts(none, readers, begin[readers], batch.prompt_tokens[readers], none, none, none - 1)
        return Edits(1, cuts=cuts, removals=Removals(np.zeros(len(gone), np.int64), gone))
