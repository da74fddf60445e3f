"""Calls made one after the other that could have been made at once: width in place of depth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kvsim.errors import InputError
from kvsim.insight.what_if.change import AgentChange
from kvsim.insight.what_if.edits import Cuts, Edits, Outputs, Pauses, Removals, ints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvsim.trajectory import Batch, Ints


@dataclass(frozen=True)
class Merge(AgentChange):
    """The calls of neighbouring turns, all made by the first of them.

    ``chains``: rows of neighbouring turns that make the calls; the turn after the last reads all responses. The first
    writes what all wrote, the tools run beside each other, so that their pause is the longest of theirs; the turns
    between are gone. Contexts are as long as before from the reading turn on.
    """

    kind: ClassVar[str] = "merge"

    chains: tuple[tuple[int, ...], ...] = ()

    def edits(self, batch: Batch) -> Edits:
        links = Links(batch)
        cuts, removed, outputs, pauses = [], [], [], []
        for chain in self.chains:
            reader = links.reader(chain)
            if reader is None:
                problem = f"rows {', '.join(map(str, chain))} are no chain of turns, each extended by the next alone"
                raise InputError(problem, field="chains", remedy="Take them from mergeable()")
            first, rest = chain[0], list(chain[1:])
            begin = int(batch.prompt_tokens[first] + batch.output_tokens[first])
            end = int(batch.prompt_tokens[reader])
            written = int(batch.output_tokens[rest].sum())
            cuts.append((reader, begin, end, end - begin, written, first))
            removed += rest
            outputs.append((first, int(batch.output_tokens[first]) + written))
            pauses.append((reader, int(batch.pause_ns[[*rest, reader]].max())))
        return Edits(
            1,
            cuts=Cuts(*_table(cuts, 6)),
            removals=Removals(ints([0] * len(removed)), ints(removed)),
            outputs=Outputs(*_table(outputs, 2)),
            pauses=Pauses(*_table(pauses, 2)),
        )


class Links:
    """Which turns simply go on from which: extended by one turn only, whole, and waited for by that one only."""

    def __init__(self, batch: Batch) -> None:
        parent, after = batch.parent, batch.after
        extended = np.bincount(parent[parent >= 0], minlength=batch.turns)
        followed = np.bincount(after[after >= 0], minlength=batch.turns)
        awaited = np.zeros(batch.turns, np.int64)
        waits = np.zeros(batch.turns, np.int64)
        if batch.waits_for is not None:
            awaited = np.bincount(batch.waits_for.values, minlength=batch.turns)
            waits = np.diff(batch.waits_for.offsets)
        whole = batch.kept_tokens == (batch.prompt_tokens + batch.output_tokens)[parent]
        simple = (parent >= 0) & (after == parent) & (waits == 0) & whole
        simple &= (extended[parent] == 1) & (followed[parent] == 1) & (awaited[parent] == 0)
        simple &= batch.trajectory[parent] == batch.trajectory
        self._parent = parent
        self.simple = simple
        """Whether a turn simply goes on from its parent, shape (rows,)."""
        self.next = np.full(batch.turns, -1, np.int64)
        """The turn that simply goes on from each, -1 none."""
        self.next[parent[simple]] = np.flatnonzero(simple)

    def reader(self, chain: Sequence[int]) -> int | None:
        """The turn that reads what the last of a chain called for; None where the rows are no chain."""
        if len(chain) < 2:
            return None
        for one, other in pairwise(chain):
            if self.next[one] != other:
                return None
        last = int(self.next[chain[-1]])
        return last if last >= 0 else None


def _table(rows: Sequence[tuple[int, ...]], columns: int) -> list[Ints]:
    """Rows as columns, variant 0 before them, ordered by the first."""
    table = np.array(sorted(rows), np.int64).reshape(-1, columns)
    return [np.zeros(len(table), np.int64), *table.T]
