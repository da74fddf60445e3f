"""Tool calls that need not have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvsim.backends.contexts import sealed
from kvsim.errors import InputError
from kvsim.insight.what_if.change import AgentChange
from kvsim.insight.what_if.edits import Cuts, Edits, Removals, places
from kvsim.trajectory import Batch, Ints


@dataclass(frozen=True)
class DropCalls(AgentChange):
    """Without the turns that made some calls, what their tools answered, and the pauses in which they did.

    ``rows`` are the turns that read the responses: each reads what the turn that made the call read, when that would
    have come. Calls made in one turn go together. (As :mod:`kvsim.backends.without_kernels` has it.)
    """

    kind: ClassVar[str] = "drop"

    rows: tuple[int, ...] = ()

    def edits(self, batch: Batch) -> Edits:
        rows = np.array(self.rows, np.int64)
        gone = np.unique(batch.parent[rows])
        if (gone < 0).any():
            row = int(rows[np.argmax(batch.parent[rows] < 0)])
            raise InputError(f"row {row} extends no turn that made a call", field="rows", remedy="Leave it out")
        every, above = _readers(batch)
        readers = np.sort(every[places(above, gone)])
        none = np.zeros(len(readers), np.int64)
        begin = batch.prompt_tokens[batch.parent[readers]]
        cuts = Cuts(none, readers, begin, batch.prompt_tokens[readers], none, none, none - 1)
        return Edits(1, cuts=cuts, removals=Removals(np.zeros(len(gone), np.int64), gone))


def _readers(batch: Batch) -> tuple[Ints, Ints]:
    """The rows that keep all of the prompt that they extend, by the row they extend, and that row."""
    return batch.once("readers", None, lambda: sealed(_found_readers(batch)))


def _found_readers(batch: Batch) -> tuple[Ints, Ints]:
    parent = batch.parent
    rows = np.flatnonzero((parent >= 0) & (batch.kept_tokens >= batch.prompt_tokens[parent]))
    order = np.argsort(parent[rows], kind="stable")
    return rows[order], parent[rows][order]
