"""Rollouts as the cost term takes them: turns in a batch, and which of them each rollout went through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kvsim._door import sealed
from kvsim.trajectory import Batch, Ints, Ragged


@dataclass(frozen=True, eq=False)
class Rollouts:
    """``len(rollouts)`` rollouts over the turns of a batch.

    ``batch``: every turn once, without named prefixes. ``paths``: the rows of each rollout, first turn first; None
    where the rollouts are the batch's trajectories. ``missing``: rows whose pause nobody measured (None: none).
    ``prefixes``: gives for every row the number of the prompt that it shares with other roots (-1 none), and how many
    of its tokens are shared, at most; None where nothing is.
    ``assumptions``: what was taken for granted, and how often.
    """

    batch: Batch
    paths: Ragged | None = None
    missing: npt.NDArray[np.bool_] | None = None
    prefixes: Callable[[], tuple[Ints, Ints]] | None = None
    assumptions: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_batch(cls, batch: Batch) -> Rollouts:
        """The trajectories of a batch; one that was forked from another goes through that one's turns too."""
        paths = _forked_paths(batch)
        if batch.prefix is None:
            return cls(batch, paths)
        kept = np.where(batch.parent < 0, 0, batch.kept_tokens)
        alone = sealed(replace(batch, prefix=None, kept_tokens=kept))
        prefix = batch.prefix
        return cls(alone, paths, prefixes=lambda: (prefix, batch.kept_tokens))

    def __len__(self) -> int:
        return len(self.batch) if self.paths is None else len(self.paths.offsets) - 1

    @cached_property
    def entries(self) -> Ragged:
        """The rows of each rollout, in the order in which they depend on each other."""
        if self.paths is not None:
            return self.paths
        batch = self.batch
        rows = np.arange(batch.turns) if batch.order is None else batch.order
        owners = batch.trajectory[rows]
        if (np.diff(owners) < 0).any():
            by_owner = np.argsort(owners, kind="stable")
            rows, owners = rows[by_owner], owners[by_owner]
        return Ragged(offsets_of(np.bincount(owners, minlength=len(batch))), rows)


def offsets_of(counts: Ints) -> Ints:
    """Where each of some lists begins in their packed values, and where the last ends, from their lengths."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _forked_paths(batch: Batch) -> Ragged | None:
    """The rows of each trajectory with the turns of others that its contexts extend; None where there are none."""
    parent = batch.parent
    if not batch.turns or ((parent < 0) | (batch.trajectory[parent] == batch.trajectory)).all():
        return None
    rank = np.arange(batch.turns)
    if batch.order is not None:
        rank[batch.order] = np.arange(batch.turns)
    ranks: list[set[int]] = [set() for _ in range(len(batch))]
    rows = np.empty_like(rank)
    rows[rank] = np.arange(batch.turns)
    for row, owner in enumerate(batch.trajectory.tolist()):
        path = ranks[owner]
        while row >= 0 and int(rank[row]) not in path:
            path.add(int(rank[row]))
            row = int(parent[row])
    counts = np.array([len(path) for path in ranks], np.int64)
    return Ragged(offsets_of(counts), rows[[at for path in ranks for at in sorted(path)]])
