"""Results in columns: what a price or a simulation gives, one value a turn and one a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kvsim.pricing import Pricing

Array = npt.NDArray[Any]
Amount = TypeVar("Amount", float, npt.NDArray[np.float64])

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


class Costed:
    """What GPU-seconds come to, one value a trajectory."""

    pricing: Pricing
    _usd_per_hour: float | None

    @property
    def gpu_s(self) -> npt.NDArray[np.float64]:
        """GPU-seconds."""
        raise NotImplementedError

    @property
    def usd_per_hour(self) -> float:
        """The price of one GPU: the one given, else the marketplace's, NaN where there is none."""
        price = self._usd_per_hour if self._usd_per_hour is not None else self.pricing.gpu.usd_per_hour
        return float("nan") if price is None else price

    @property
    def usd(self) -> npt.NDArray[np.float64]:
        """``gpu_s`` at the price of the GPU, NaN where there is none."""
        return self.usd_of(self.gpu_s)

    @property
    def joules(self) -> npt.NDArray[np.float64]:
        """``gpu_s`` x TDP: an upper bound of the GPU's energy, not a measurement."""
        return self.joules_of(self.gpu_s)

    def usd_of(self, gpu_s: Amount) -> Amount:
        """US dollars of GPU-seconds."""
        return gpu_s * (self.usd_per_hour / 3600)

    def joules_of(self, gpu_s: Amount) -> Amount:
        """The upper bound in joules of GPU-seconds."""
        return gpu_s * self.pricing.gpu.tdp_w


def seconds(nanoseconds: Array, unknown: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float64]:
    """Nanoseconds as seconds, NaN where unknown (None: nowhere)."""
    result: npt.NDArray[np.float64] = nanoseconds / 1e9
    if unknown is not None:
        result[unknown] = np.nan
    return result
