"""Recompute by what was lost when, and by whose traffic."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kvsim.backends.contexts import contexts_of
from kvsim.estimation import Estimate
from kvsim.insight.apportion import apportion
from kvsim.result import Table

if TYPE_CHECKING:
    from kvsim.backends.engine_kernels import Contexts
    from kvsim.backends.interface import Ints
    from kvsim.simulated import Simulation

__all__ = ["LOST_IN", "evictions_of"]

LOST_IN = ("pause", "queue", "earlier", "absent")
PAUSE, QUEUE, EARLIER, ABSENT = range(len(LOST_IN))


def evictions_of(result: Estimate | Simulation, recompute_ns: Ints) -> Table:
    """The table :attr:`kvsim.insight.Attribution.evictions`."""
    rows = np.flatnonzero(recompute_ns > 0)
    unknown = np.full(len(rows), -1, np.int64)
    if isinstance(result, Estimate) or not result.keeps_evictions:
        size = result.pricing.engine.block_size
        blocks = np.maximum(result.turns.recomputed_tokens[rows], 0) // size
        return _table(rows, unknown, np.full(len(rows), PAUSE), blocks, unknown, recompute_ns[rows])
    found = _search(result, rows)
    row, by, lost_in, blocks, last_ns = (
        (np.array(column, np.int64) for column in zip(*found, strict=True)) if found else [np.zeros(0, np.int64)] * 5
    )
    return _table(row, by, lost_in, blocks, last_ns, apportion(recompute_ns, blocks, row))


def _search(result: Simulation, rows: Ints) -> list[tuple[int, int, int, int, int]]:
    """Row by row what it had lost: by whom, in what, how many blocks, and when the last of them."""
    batch, served, engine = result.batch, result.served, result.pricing.engine
    size, windows, log = engine.block_size, engine.windows, result.evictions
    contexts = contexts_of(batch, size)
    stretches = _Stretches(contexts)
    # By replica and key: the last eviction so far. Evictions and the rows that suffer from them, in order of time.
    replicas = int(served.replica.max(initial=0)) + 1
    last = np.full((replicas, len(windows) * contexts.keys), -1, np.int32)
    entry, entries = 0, len(log.row)
    times, where, keys, blocks = (column.tolist() for column in (log.time_ns, log.replica, log.first_key, log.blocks))
    found: dict[int, list[tuple[int, int, int, int, int]]] = {}
    for row in rows[np.argsort(served.scheduled_ns[rows], kind="stable")].tolist():
        now_ns = served.scheduled_ns[row]
        while entry < entries and times[entry] <= now_ns:
            last[where[entry], keys[entry] : keys[entry] + blocks[entry]] = entry
            entry += 1
        parent, release_ns = batch.parent[row], served.release_ns[row]
        freed_ns = served.finish_ns[parent] if parent >= 0 else release_ns
        cached, hittable = (int(column[row]) // size for column in (served.cached_tokens, served.hittable_tokens))
        counts: dict[tuple[int, int], list[int]] = {}
        for group, window in enumerate(windows):
            lo = max(cached, hittable - -(-(window - 1) // size)) if window else cached
            for first, end in stretches.keys(row, lo, hittable):
                its = last[served.replica[row], group * contexts.keys + first : group * contexts.keys + end]
                entered, lost = np.unique(its, return_counts=True)
                for at, number in zip(entered.tolist(), lost.tolist(), strict=True):
                    time_ns = times[at] if at >= 0 else -1
                    by = int(log.row[at]) if at >= 0 else -1
                    # What went before the turn above had its own may have come again and be elsewhere.
                    lost_in = PAUSE if freed_ns <= time_ns < release_ns else QUEUE if time_ns >= release_ns else EARLIER
                    of = counts.setdefault((by, ABSENT if at < 0 else lost_in), [0, -1])
                    of[0] += number
                    of[1] = max(of[1], time_ns)
        found[row] = [(row, by, lost_in, *of) for (by, lost_in), of in sorted(counts.items())]
        if not found[row]:
            found[row] = [(row, -1, ABSENT, 0, -1)]
    return [each for row in rows.tolist() for each in found[row]]


class _Stretches:
    """The keys of contexts, in stretches of neighbouring numbers."""

    def __init__(self, contexts: Contexts) -> None:
        self._offset = (contexts.first_key - contexts.own_from).tolist()
        self._above, self._from = contexts.above.tolist(), contexts.own_from.tolist()
        self._prefix = contexts.prefix_key.tolist()

    def keys(self, row: int, lo: int, end: int) -> list[tuple[int, int]]:
        """(first key, end of keys) for the blocks [lo, end) of a row's context."""
        found: list[tuple[int, int]] = []
        while end > lo:
            begin = max(self._from[row], lo)
            if begin < end:
                first, stop = self._offset[row] + begin, self._offset[row] + end
                if found and found[-1][0] == stop:
                    found[-1] = (first, found[-1][1])
                else:
                    found.append((first, stop))
                end = begin
            if end <= lo:
                break
            if self._above[row] < 0:
                found.append((self._prefix[row] + lo, self._prefix[row] + end))
                break
            row = self._above[row]
        return found


def _table(row: Ints, by: Ints, lost_in: Ints, blocks: Ints, last_ns: Ints, recompute_ns: Ints) -> Table:
    columns = {
        "row": row,
        "by": by,
        "lost_in": np.array(LOST_IN)[lost_in],
        "blocks": blocks,
        "last_ns": last_ns,
        "recompute_ns": recompute_ns,
    }
    return Table(len(row), {name: partial(columns.__getitem__, name) for name in columns})
