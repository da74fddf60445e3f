"""What every backend offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kvsim.backends.kernels import PriceColumns, Rates

if TYPE_CHECKING:
    from kvsim.trajectory import Batch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Priced:
    """What pricing a batch gives.

    ``totals`` (trajectories, 8) int64 has the columns :data:`kvsim.backends.kernels.TOTALS`; ``held_block_ns``
    (trajectories,) float64; ``turns`` are the columns of turns, where asked for.
    """

    totals: Ints
    held_block_ns: npt.NDArray[np.float64]
    turns: PriceColumns | None


class Backend(Protocol):
    """A place where pricing runs. Handles are the backend's own; callers keep and pass them back."""

    name: str

    def prepare(self, rates: Rates, step: Ints) -> Any:
        """A handle for the rates of a load and the law's table of step times, others' tokens counted already."""
        ...

    def pack(self, batch: Batch) -> Any:
        """A handle for the batch's columns."""
        ...

    def estimate(self, prepared: Any, packed: Any, *, turns: bool) -> Priced:
        """Price every turn of the batch; ``turns`` asks for their columns as well as for totals."""
        ...

    def topological_order(self, batch: Batch) -> Ints:
        """Rows so that each stands after all it depends on; rows on cycles are left out."""
        ...
