"""The backends that run kernels.py over numpy arrays: uncompiled (reference) here, compiled in numba_backend."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.backends import kernels
from kvsim.backends.interface import Ints, Priced

if TYPE_CHECKING:
    from kvsim.trajectory import Batch

_NONE = np.zeros(0, np.int64)
_NO_BLOCKS = np.zeros(0, np.float64)
_NO_STATUS = np.zeros(0, np.int8)


class ArrayBackend:
    """Runs the functions of a module that holds the text of kernels.py."""

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name = name
        self._kernels = module
        self._finish_ns = _NONE

    def prepare(self, rates: kernels.Rates, step: Ints) -> Any:
        """The same values in the module's own named tuples."""
        own = self._kernels
        groups = {"full": own.GroupRates(*rates.full), "windowed": own.GroupRates(*rates.windowed)}
        return own.Rates(**{**rates._asdict(), **groups}), step

    def pack(self, batch: Batch) -> Any:
        """The columns as a named tuple, absent ones of length 0, and the number of trajectories."""

        def present(column: Ints | None) -> Ints:
            return _NONE if column is None else column

        waits = batch.waits_for
        turns = self._kernels.Turns(
            parent=batch.parent,
            after=batch.after,
            kept=batch.kept_tokens,
            prompt=batch.prompt_tokens,
            output=batch.output_tokens,
            pause_ns=batch.pause_ns,
            arrival_ns=batch.arrival_ns,
            trajectory=batch.trajectory,
            order=present(batch.order),
            waits_offsets=_NONE if waits is None else waits.offsets,
            waits_rows=_NONE if waits is None else waits.values,
            shared=present(batch.shared_tokens),
            logged_cached=present(batch.cached_tokens),
        )
        return turns, len(batch)

    def estimate(self, prepared: Any, packed: Any, *, turns: bool) -> Priced:
        """See :class:`kvsim.backends.interface.Backend`."""
        rates, step = prepared
        columns, trajectories = packed
        rows = len(columns.parent)
        if len(self._finish_ns) < rows:
            self._finish_ns = np.empty(rows, np.int64)
        totals = np.empty((trajectories, len(kernels.TOTALS)), np.int64)
        held_block_ns = np.empty(trajectories, np.float64)
        length = rows if turns else 0
        out = self._kernels.PriceColumns(
            *(np.empty(length, np.int64) for _ in range(6)), np.empty(length, np.float64), np.empty(length, np.int8)
        )
        self._kernels.estimate(rates, step, columns, self._finish_ns, totals, held_block_ns, out)
        return Priced(totals, held_block_ns, kernels.PriceColumns(*out) if turns else None)

    def topological_order(self, batch: Batch) -> Ints:
        """See :class:`kvsim.backends.interface.Backend`."""
        waits = batch.waits_for
        offsets, rows = (_NONE, _NONE) if waits is None else (waits.offsets, waits.values)
        order: Ints = self._kernels.topological_order(batch.parent, batch.after, offsets, rows)
        return order


def load() -> ArrayBackend:
    """The reference: kernels.py uncompiled."""
    return ArrayBackend("reference", kernels)
