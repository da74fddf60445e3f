"""Results in columns: what a price or a simulation gives, one value a turn and one a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: What ``status`` says of a turn, by code.
STATUSES = ("ok", "over_max", "over_capacity")


class Table(Mapping[str, Array]):
    """Columns by name, each made on first use; also as attributes: ``table["e2e_s"]`` is ``table.e2e_s``."""

    def __init__(self, rows: int, columns: Mapping[str, Callable[[], Array]]) -> None:
        self._rows = rows
        self._makers = columns
        self._made: dict[str, Array] = {}

    @property
    def rows(self) -> int:
        """How many values each column has."""
        return self._rows

    def __getitem__(self, name: str) -> Array:
        if name not in self._made:
            if name not in self._makers:
                raise KeyError(f"no column {name!r}; there are {', '.join(self._makers)}")
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._makers})


def seconds(nanoseconds: Array, unknown: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float64]:
    """Nanoseconds as seconds, NaN where unknown (None: nowhere)."""
    result: npt.NDArray[np.float64] = nanoseconds / 1e9
    if unknown is not None:
        result[unknown] = np.nan
    return result
