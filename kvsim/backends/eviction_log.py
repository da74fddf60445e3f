"""Which row's allocation took which blocks of which context, and when: the form in which all backends agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints

__all__ = ["EvictionLog", "Evictions", "canonical"]


class Evictions(NamedTuple):
    """Blocks that lost their keys, by time, replica, row, then key.

    An entry's keys are ``first_key`` to ``first_key + blocks - 1``, numbered as in
    :class:`kvsim.backends.engine_kernels.Contexts`, those of KV group g from ``g * keys`` on. ``copies``: so many
    blocks had each of these keys, and went.
    """

    time_ns: Ints
    replica: Ints
    row: Ints
    """Whose allocation took them."""
    first_key: Ints
    blocks: Ints
    copies: Ints


class EvictionLog:
    """Where a simulation is to leave its evictions."""

    def __init__(self) -> None:
        self.evictions: Evictions = canonical(np.zeros((0, 5), np.int64))


def canonical(entries: Ints) -> Evictions:
    """Evictions from entries in any order: replica, time, row, first key, end of the keys; shape (entries, 5).

    Stretches of keys are as long as they can be, and do not overlap.
    """
    replica, time_ns, row, first, end = entries.T
    # Where stretches begin and end, in the order of the keys: between two such places all keys went equally often.
    place = np.concatenate((first, end))
    change = np.concatenate((np.ones(len(first), np.int64), np.full(len(end), -1)))
    group = tuple(np.concatenate((column, column)) for column in (row, replica, time_ns))
    order = np.lexsort((place, *group))
    place, change = place[order], change[order]
    group = tuple(column[order] for column in group)
    new = np.ones(len(place), bool)  # places that are the first of their kind
    new[1:] = np.any([column[1:] != column[:-1] for column in (place, *group)], axis=0)
    at = np.flatnonzero(new)
    copies = np.cumsum(np.add.reduceat(change, at)) if len(at) else change
    same = np.zeros(len(at), bool)  # the keys behind go on as those before
    same[1:] = copies[1:] == copies[:-1]
    at, copies = at[~same], copies[~same]
    blocks = np.diff(place[at], append=0)
    gone = copies > 0
    its = at[gone]
    return Evictions(group[2][its], group[1][its], group[0][its], place[its], blocks[gone], copies[gone])
