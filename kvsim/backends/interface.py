"""What every backend offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from kvsim.backends.kernels import PriceColumns, Rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvsim.backends.engine_kernels import Served
    from kvsim.backends.run_sums import Told
    from kvsim.backends.without_kernels import Left
    from kvsim.metrics.pte import Weights
    from kvsim.trajectory import Batch, Ragged

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_PAGE_VALUES, _CACHE_LINE_VALUES = 512, 8


@dataclass(frozen=True)
class Priced:
    """What pricing a batch gives.

    ``totals`` (trajectories, 8) int64 has the columns :data:`kvsim.backends.kernels.TOTALS`; ``held_block_ns``
    (trajectories,) float64.
    """

    totals: Ints
    held_block_ns: Floats


def empty_columns(rows: int) -> PriceColumns:
    """Room for the prices of so many turns.

    In one block, which the system gives in huge pages but for its ends; touching fresh small ones costs as much as the
    pricing. Columns start in different lines of a cache's sets whatever their length, since all are written at once.
    """
    apart = -(-rows // _PAGE_VALUES) * _PAGE_VALUES + _CACHE_LINE_VALUES
    columns = np.empty((7, apart), np.int64)[:, :rows]
    return PriceColumns(
        release_ns=columns[0],
        fresh_ns=columns[1],
        recompute_ns=columns[2],
        decode_ns=columns[3],
        cached_tokens=columns[4],
        recomputed_tokens=columns[5],
        held_block_ns=columns[6].view(np.float64),
        status=np.empty(rows, np.int8),
    )


class Backend(Protocol):
    """A place where pricing runs. Handles are the backend's own; callers keep and pass them back."""

    name: str

    def prepare(self, rates: Rates, step: Ints) -> Any:
        """A handle for the rates of a load and the law's table of step times, others' tokens counted already."""
        ...

    def pack(self, batch: Batch) -> Any:
        """A handle for the batch's columns."""
        ...

    def estimate(self, prepared: Any, packed: Any, columns: PriceColumns | None, threads: int = 1) -> Priced:
        """Price every turn of the batch; their own prices are written into ``columns``, where given.

        ``threads`` is how many may be used, not how many must: they change no bit of the result.
        """
        ...

    def without(self, packed: Any, paths: Ragged, rollouts: Ints, positions: Ints, base: int, left: Left) -> int:
        """Rollouts with one turn left out, written into ``left``; see :mod:`kvsim.backends.without_kernels`."""
        ...

    def topological_order(self, batch: Batch) -> Ints:
        """Rows so that each stands after all it depends on; rows on cycles are left out."""
        ...


@runtime_checkable
class WeighsPte(Protocol):
    """A backend that computes PTE where it prices; for the others numpy does."""

    def pte(self, prepared: Any, packed: Any, weights: Weights) -> Floats:
        """PTE of every turn of the batch, NaN where it cannot be priced; the paper's reading needs no ``prepared``."""
        ...


@runtime_checkable
class AddsUpRuns(Protocol):
    """A backend that adds up runs; for the others numpy does. See :mod:`kvsim.backends.run_sums`."""

    name: str

    def pack(self, batch: Batch) -> Any:
        """A handle for the batch's columns."""
        ...

    def run_sums(
        self,
        packed: Any,
        served: Served,
        replicas: int,
        block_size: int,
        windows: Sequence[int],
        shares: Sequence[float],
    ) -> Told:
        """What a run comes to."""
        ...
