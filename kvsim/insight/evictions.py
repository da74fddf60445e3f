"""Recompute by what was lost when, and by whose traffic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
    stretches = _Stretches(contexts, range(batch.turns) if batch.order is None else batch.order.tolist())
    # By replica and key: the last eviction so far. Evictions and the rows that suffer from them, in order of time.
    replicas = int(served.replica.max(initial=0)) + 1
    last = [np.full(len(windows) * contexts.keys, -1, np.int32) for _ in range(replicas)]
    columns = (log.time_ns, log.row, log.replica, log.first_key, log.first_key + log.blocks)
    times, evictors, where, first_keys, end_keys = (column.tolist() for column in columns)
    written = 0
    found: dict[int, list[tuple[int, int, int, int, int]]] = {}
    for row in rows[np.argsort(served.scheduled_ns[rows], kind="stable")].tolist():
        now_ns = int(served.scheduled_ns[row])
        until = bisect_right(times, now_ns, written)
        for entry in range(written, until):
            last[where[entry]][first_keys[entry] : end_keys[entry]] = entry
        written = until
        parent, release_ns = batch.parent[row], int(served.release_ns[row])
        freed_ns = int(served.finish_ns[parent]) if parent >= 0 else release_ns
        cached, hittable = (int(column[row]) // size for column in (served.cached_tokens, served.hittable_tokens))
        counts: dict[tuple[int, int], list[int]] = {}
        for group, window in enumerate(windows):
            lo = max(cached, hittable - -(-(window - 1) // size)) if window else cached
            for first, end in stretches.keys(row, lo, hittable):
                its = last[served.replica[row]][group * contexts.keys + first : group * contexts.keys + end]
                for at, number in _runs(its):
                    time_ns = times[at] if at >= 0 else -1
                    by = evictors[at] if at >= 0 else -1
                    # What went before the turn above had its own may have come again and be elsewhere.
                    lost_in = PAUSE if freed_ns <= time_ns < release_ns else QUEUE if time_ns >= release_ns else EARLIER
                    of = counts.setdefault((by, ABSENT if at < 0 else lost_in), [0, -1])
                    of[0] += number
                    if time_ns > of[1]:
                        of[1] = time_ns
        found[row] = [(row, by, lost_in, *of) for (by, lost_in), of in sorted(counts.items())]
        if not found[row]:
            found[row] = [(row, -1, ABSENT, 0, -1)]
    return [each for row in rows.tolist() for each in found[row]]


def _runs(values: npt.NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Each value and how often it comes in a row: most blocks of a context go together."""
    begin = 0
    for end in [*(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]:
        yield int(values[begin]), end - begin
        begin = end


class _Stretches:
    """The keys of contexts, in stretches of neighbouring numbers: one for a session, however many its turns."""

    def __init__(self, contexts: Contexts, order: Iterable[int]) -> None:
        self._offset = (contexts.first_key - contexts.own_from).tolist()
        self._above, self._from = contexts.above.tolist(), contexts.own_from.tolist()
        self._prefix = contexts.prefix_key.tolist()
        self._top = list(range(len(self._above)))  # the row with which a stretch begins
        for row in order:
            above = self._above[row]
            if above >= 0 and self._offset[above] == self._offset[row]:
                self._top[row] = self._top[above]

    def keys(self, row: int, lo: int, end: int) -> list[tuple[int, int]]:
        """(first key, end of keys) for the blocks [lo, end) of a row's context."""
        found: list[tuple[int, int]] = []
        while end > lo:
            offset, row = self._offset[row], self._top[row]
            begin = max(self._from[row], lo)
            if begin < end:
                found.append((offset + begin, offset + end))
                end = begin
            if end > lo and self._above[row] < 0:  # a named prefix
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
