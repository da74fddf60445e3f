"""Which trajectories hang together, so that a change of one is priced with all that it touches."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from kvsim.trajectory import Batch, Ints


@dataclass(frozen=True, eq=False)
class Families:
    """The trajectories of a batch in families: those of which one extends or waits for turns of another.

    ``of`` (trajectories,) numbers the families from 0. ``rows``, packed by ``offsets`` (families + 1,), are the rows of
    each in the batch's order; ``rank`` (rows of the batch,) is a row's place among those of its family. ``depth`` (rows
    of the batch,) counts how many contexts a row's context goes through before it.
    """

    batch: Batch
    of: Ints
    rows: Ints
    offsets: Ints
    rank: Ints
    depth: Ints
    trajectory_rank: Ints
    """A trajectory's place among those of its family, shape (trajectories,)."""
    sizes: Ints
    """How many trajectories each family has."""
    _members: dict[int, Ints] = field(default_factory=dict, repr=False)

    @classmethod
    def of_batch(cls, batch: Batch) -> Families:
        """The families that there are."""
        return cls._grouped(batch, _linked(batch))

    @classmethod
    def whole(cls, batch: Batch) -> Families:
        """All trajectories as one family."""
        return cls._grouped(batch, np.zeros(len(batch), np.int64))

    @classmethod
    def _grouped(cls, batch: Batch, of: Ints) -> Families:
        count = int(of.max(initial=-1)) + 1
        owner = of[batch.trajectory] if batch.turns else np.zeros(0, np.int64)
        rows = np.argsort(owner, kind="stable")
        turns = np.bincount(owner, minlength=count)
        offsets = np.concatenate([[0], np.cumsum(turns)]).astype(np.int64)
        rank = np.empty(batch.turns, np.int64)
        rank[rows] = np.arange(batch.turns) - np.repeat(offsets[:-1], turns)
        sizes = np.bincount(of, minlength=count)
        by_family = np.argsort(of, kind="stable")
        trajectory_rank = np.empty(len(batch), np.int64)
        trajectory_rank[by_family] = np.arange(len(batch)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return cls(batch, of, rows, offsets, rank, _depth(batch.parent), trajectory_rank, sizes)

    @cached_property
    def owner(self) -> Ints:
        """Of each row the ancestor that read or wrote the last of its kept tokens itself; -1 for roots."""
        parent, kept = self.batch.parent, self.batch.kept_tokens
        owner = parent.copy()
        climbing = np.flatnonzero(parent >= 0)
        while climbing.size:
            at = owner[climbing]
            climbing = climbing[(parent[at] >= 0) & (kept[at] > kept[climbing])]
            owner[climbing] = parent[owner[climbing]]
        return owner

    def trajectories(self, family: int) -> Ints:
        """The trajectories of a family, by their numbers."""
        if not self._members:
            by_family = np.argsort(self.of, kind="stable")
            parts = np.split(by_family, np.cumsum(self.sizes)[:-1])
            self._members.update(enumerate(parts))
        return self._members[family]

    def turns(self, families: Ints) -> Ints:
        """How many turns each of these families has."""
        return self.offsets[families + 1] - self.offsets[families]


def _depth(parent: Ints) -> Ints:
    """How many ancestors each row has, by doubling the distance looked back in each round."""
    depth = (parent >= 0).astype(np.int64)
    above = parent.copy()
    while (climbing := np.flatnonzero(above >= 0)).size:
        over = above[climbing]
        more, further = depth[over], above[over]
        depth[climbing] += more
        above[climbing] = further
    return depth


def _linked(batch: Batch) -> Ints:
    """A number for each trajectory, the same for those that hang together."""
    root = list(range(len(batch)))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    owner = batch.trajectory
    pairs = []
    for needed in (batch.parent, batch.after):
        rows = np.flatnonzero(needed >= 0)
        rows = rows[owner[needed[rows]] != owner[rows]]
        pairs.append(np.stack([owner[rows], owner[needed[rows]]]))
    if batch.waits_for is not None:
        waiting, needed = batch.waits_for.owners, batch.waits_for.values
        apart = owner[waiting] != owner[needed]
        pairs.append(np.stack([owner[waiting[apart]], owner[needed[apart]]]))
    for one, other in np.unique(np.concatenate(pairs, axis=1), axis=1).T.tolist():
        root[find(one)] = find(other)
    return np.unique([find(number) for number in range(len(batch))], return_inverse=True)[1].reshape(-1)


def levels(depth: Ints) -> list[Ints]:
    """The rows of each depth from 0 on: a row's parent is on the level before its own."""
    order = np.argsort(depth, kind="stable")
    ends = np.searchsorted(depth[order], np.arange(int(depth.max(initial=0)) + 2))
    return [order[low:high] for low, high in pairwise(ends.tolist())]


def turn_of(batch: Batch, row: int) -> int:
    """Which turn of its trajectory a row is, counted from 0."""
    return int(np.count_nonzero(batch.trajectory[:row] == batch.trajectory[row]))
