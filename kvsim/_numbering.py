"""Values of any kind (ids of questions, of groups) as numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError


def numbers_of(name: str, values: Iterable[Hashable] | npt.ArrayLike, length: int) -> npt.NDArray[np.int64]:
    """0, 1, 2, ... for distinct values in order of first appearance, shape (length,).

    Raises :class:`InputError` naming the argument ``name`` where there are not ``length`` values.
    """
    given: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)  # type: ignore[arg-type]
    if len(given) != length:
        raise InputError(f"has {len(given)} values for {length}", field=name, remedy="Give one value each")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in given], np.int64)
