"""The C++ core as a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvsim.backends.interface import Floats, Ints, Priced
from kvsim.backends.kernels import GroupRates, PriceColumns, Rates
from kvsim.backends.packing import kernel_columns
from kvsim.backends.run_sums import Told
from kvsim.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvsim.backends.engine_kernels import Served
    from kvsim.backends.without_kernels import Left
    from kvsim.metrics.pte import Weights
    from kvsim.trajectory import Batch, Ragged


ROWS_PER_THREAD = 32_768
"""With fewer rows each, a call gains nothing by more threads: starting one takes some ten microseconds."""


class NativeBackend:
    """Calls into ``kvsim._core``; the GIL is released while it works."""

    name = "native"

    def __init__(self, core: Any, rows_per_thread: int = ROWS_PER_THREAD) -> None:
        self._core = core
        self._rows_per_thread = rows_per_thread

    def prepare(self, rates: Rates, step: Ints) -> Any:
        """The rates as a C++ object, and the table."""
        return made_rates(self._core, rates), step

    def pack(self, batch: Batch) -> Any:
        """The columns as a C++ object that keeps the arrays alive."""
        return made_turns(self._core, batch)

    def estimate(self, prepared: Any, packed: Any, columns: PriceColumns | None, threads: int = 1) -> Priced:
        """See :class:`kvsim.backends.interface.Backend`."""
        rates, step = prepared
        return Priced(*self._core.estimate(rates, step, packed, columns, threads, self._rows_per_thread))

    def pte(self, prepared: Any, packed: Any, weights: Weights) -> Floats:
        """See :class:`kvsim.backends.interface.WeighsPte`."""
        turns: Floats = self._core.pte(*(prepared or (None, None)), packed, weights)
        return turns

    def without(self, packed: Any, paths: Ragged, rollouts: Ints, positions: Ints, base: int, left: Left) -> int:
        """See :class:`kvsim.backends.interface.Backend`."""
        waited: int = self._core.without(packed, paths.offsets, paths.values, rollouts, positions, base, tuple(left))
        return waited

    def topological_order(self, batch: Batch) -> Ints:
        """See :class:`kvsim.backends.interface.Backend`."""
        order: Ints = self.pack(batch).topological_order()
        return order

    def run_sums(
        self,
        packed: Any,
        served: Served,
        replicas: int,
        block_size: int,
        windows: Sequence[int],
        shares: Sequence[float],
    ) -> Told:
        """See :mod:`kvsim.backends.run_sums`."""
        return Told(*self._core.run_sums(packed, served, replicas, block_size, windows, shares))


def made_rates(module: Any, rates: Rates) -> Any:
    """The rates as an object of a C++ module."""
    held = module.Rates()
    for name, value in rates._asdict().items():
        setattr(held, name, module.GroupRates(*value) if isinstance(value, GroupRates) else value)
    return held


def made_turns(module: Any, batch: Batch) -> Any:
    """The batch's columns as an object of a C++ module, which keeps the arrays alive."""
    return module.Turns(trajectories=len(batch), **kernel_columns(batch))


def load() -> NativeBackend:
    """The backend, or the reason why the extension module is not there."""
    try:
        from kvsim import _core
    except ImportError as error:
        raise BackendUnavailableError(
            f"native: the C++ core is not built ({error}); reinstall kvsim with a C++17 compiler"
        ) from error
    return NativeBackend(_core)
