"""What shapes are given: checked once, so that what they give is finite."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from kvsim._numbering import numbers_of
from kvsim.errors import InputError

Floats = npt.NDArray[np.float64]
Groups = int | Sequence[Hashable] | npt.ArrayLike


def finite(name: str, values: npt.ArrayLike, like: Floats | None = None, least: float = -np.inf) -> Floats:
    """A one-dimensional array of finite numbers of at least ``least``, as long as ``like``; a number is repeated."""
    array = np.asarray(values, np.float64)
    if like is not None and array.ndim == 0:
        array = np.full(len(like), float(array))
    if array.ndim != 1 or (like is not None and len(array) != len(like)):
        shape = "one dimension" if like is None else f"shape ({len(like)},)"
        raise InputError(f"has shape {array.shape}", field=name, remedy=f"Give {shape}: one value a rollout")
    if not np.isfinite(array).all() or (array < least).any():
        wrong = array[~np.isfinite(array) | (array < least)][0]
        bound = "" if least == -np.inf else f" of at least {least:g}"
        raise InputError(f"holds {wrong}", field=name, remedy=f"Give finite numbers{bound}")
    return array


def number(name: str, value: float, least: float = -np.inf, above: float = -np.inf) -> float:
    """A finite number of at least ``least`` and greater than ``above``."""
    if not (np.isfinite(value) and value >= least and value > above):
        bound = f"of at least {least:g}" if above < least else f"greater than {above:g}"
        bound = "" if least == above == -np.inf else " " + bound
        raise InputError(f"is {value!r}", field=name, remedy=f"Give a finite number{bound}")
    return float(value)


def numbered(groups: Groups, rollouts: int) -> npt.NDArray[np.int64]:
    """The number of each rollout's group, from 0, shape (rollouts,)."""
    if isinstance(groups, (int, np.integer)) and not isinstance(groups, bool):
        if groups < 1 or rollouts % groups:
            problem = f"{rollouts} rollouts are no groups of {groups}"
            raise InputError(problem, field="groups", remedy="Give a size that divides them, or one value a rollout")
        return np.arange(rollouts) // int(groups)
    return numbers_of("groups", groups, rollouts)


def flags(name: str, values: npt.ArrayLike, like: Floats) -> npt.NDArray[np.bool_]:
    """Whether each rollout is something: bools, or numbers of which those above 0 mean yes."""
    return finite(name, np.asarray(values, np.float64), like) > 0
