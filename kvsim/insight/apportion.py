"""Whole numbers split so that the parts add up to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints

__all__ = ["apportion"]

BITS = 50
"""A group's weights are taken as whole numbers that sum to about 2^BITS."""


def apportion(totals: Ints, weights: npt.NDArray[Any], groups: Ints) -> Ints:
    """Shares of ``totals`` (groups,) in proportion to ``weights`` (items,), of which the groups are in rising order.

    The running sum of a group's shares is that of the exact ones rounded down, so that its shares add up to its total
    and each is about 1 off at most. Where all weights of a group are 0, its last item has everything.
    """
    if not len(groups):
        return np.zeros(0, np.int64)
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    last = np.append(first[1:], len(groups)) - 1
    place = np.repeat(np.arange(len(first)), last - first + 1)
    some = np.maximum(weights, 0).astype(np.float64)
    sums = np.add.reduceat(some, first)
    some[last[sums == 0]] = 1.0
    scale = BITS - np.frexp(np.add.reduceat(some, first))[1]
    running = np.cumsum(np.rint(np.ldexp(some, scale[place])).astype(np.int64))
    running -= np.append(0, running[last[:-1]])[place]  # holds even where the sum over groups overflows
    given, most = totals[groups], running[last][place]
    if int(given.max()) < 1 << BITS:
        upto = np.minimum(np.floor(running * (given / most)).astype(np.int64), given)
    else:
        upto = (running.astype(object) * given.astype(object) // most.astype(object)).astype(np.int64)
    upto[last] = given[last]
    shares: Ints = np.diff(upto, prepend=0)
    shares[first] = upto[first]
    return shares
