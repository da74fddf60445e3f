"""Values for each turn of each rollout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kvsim.trajectory import Ints


@dataclass(frozen=True)
class PerTurn:
    """One value for each turn of each rollout: ``values[offsets[i]:offsets[i + 1]]`` are those of rollout i.

    ``per_turn[i]`` is that stretch, iteration gives one array a rollout, ``np.asarray`` all values.
    """

    offsets: Ints
    values: npt.NDArray[np.float64]

    def __getitem__(self, rollout: int) -> npt.NDArray[np.float64]:
        number = range(len(self))[rollout]
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[npt.NDArray[np.float64]]:
        return (self[rollout] for rollout in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype) if copy else np.asarray(self.values, dtype)
