"""The backends that run kernels.py over numpy arrays: uncompiled (reference) here, compiled in numba_backend."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.backends import kernels, without_kernels
from kvsim.backends.interface import Ints, Priced, empty_columns
from kvsim.backends.packing import kernel_columns

if TYPE_CHECKING:
    from kvsim.backends.without_kernels import Left
    from kvsim.trajectory import Batch, Ragged

_NONE = np.zeros(0, np.int64)


class ArrayBackend:
    """Runs the functions of modules that hold the texts of kernels.py and without_kernels.py."""

    def __init__(self, name: str, pricing: ModuleType, leaving_out: ModuleType) -> None:
        self.name = name
        self._kernels = pricing
        self._leaving_out = leaving_out
        self._scratch = threading.local()  # kernels release the GIL

    def prepare(self, rates: kernels.Rates, step: Ints) -> Any:
        """The same values in the module's own named tuples."""
        own = self._kernels
        groups = {"full": own.GroupRates(*rates.full), "windowed": own.GroupRates(*rates.windowed)}
        # A copy that can be written: for read-only arrays Numba would compile everything once more.
        return own.Rates(**{**rates._asdict(), **groups}), np.array(step)

    def pack(self, batch: Batch) -> Any:
        """The columns as a named tuple, absent ones of length 0, and the number of trajectories."""
        columns = kernel_columns(batch)
        turns = self._kernels.Turns(**{name: _NONE if column is None else column for name, column in columns.items()})
        return turns, len(batch)

    def estimate(self, prepared: Any, packed: Any, columns: kernels.PriceColumns | None, threads: int = 1) -> Priced:
        """See :class:`kvsim.backends.interface.Backend`; one thread works, whatever ``threads`` is."""
        rates, step = prepared
        turns, trajectories = packed
        finish_ns = getattr(self._scratch, "finish_ns", _NONE)
        if len(finish_ns) < len(turns.parent):
            finish_ns = self._scratch.finish_ns = np.empty(len(turns.parent), np.int64)
        totals = np.empty((trajectories, len(kernels.TOTALS)), np.int64)
        held_block_ns = np.empty(trajectories, np.float64)
        out = self._kernels.PriceColumns(*(columns if columns is not None else empty_columns(0)))
        self._kernels.estimate(rates, step, turns, finish_ns, totals, held_block_ns, out)
        return Priced(totals, held_block_ns)

    def without(self, packed: Any, paths: Ragged, rollouts: Ints, positions: Ints, base: int, left: Left) -> int:
        """See :class:`kvsim.backends.interface.Backend`."""
        turns, _ = packed
        own = self._leaving_out
        given = own.Given(*(getattr(turns, name) for name in own.Given._fields))
        local = np.zeros(len(turns.parent), np.int64)
        shifts = np.empty(int(np.diff(paths.offsets).max(initial=0)), np.int64)
        chosen = rollouts, positions, base, local, shifts, own.Left(*left)
        return int(own.without(given, paths.offsets, paths.values, *chosen))

    def topological_order(self, batch: Batch) -> Ints:
        """See :class:`kvsim.backends.interface.Backend`."""
        rows, waits = batch.turns, batch.waits_for
        offsets, waited = (_NONE, _NONE) if waits is None else (waits.offsets, waits.values)
        order = np.empty(rows, np.int64)
        dependants = np.empty(2 * rows + len(waited), np.int64)
        scratch = np.zeros(rows, np.int64), np.zeros(rows + 2, np.int64), dependants
        count = self._kernels.topological_order(batch.parent, batch.after, offsets, waited, *scratch, order)
        return order[:count]


def load() -> ArrayBackend:
    """The reference: the kernels uncompiled."""
    return ArrayBackend("reference", kernels, without_kernels)
