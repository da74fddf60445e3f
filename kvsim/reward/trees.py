"""Rollouts of a tree: turns that several of them went through are one turn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from kvsim._door import sealed
from kvsim.errors import InputError
from kvsim.reward.rollouts import Rollouts
from kvsim.trajectory import Batch, Ints, Numbered, Ragged, Segments


def merged(rollouts: Rollouts, names: Sequence[Hashable]) -> Rollouts:
    """The rollouts with turns of one name made one; ``names`` has one for every row.

    Raises :class:`InputError` where turns of one name differ in their tokens or in what came before them.
    """
    batch = rollouts.batch
    row_of: dict[Hashable, int] = {}
    first: list[int] = []
    number = np.empty(batch.turns, np.int64)
    for row, name in enumerate(names):
        number[row] = row_of.setdefault(name, len(first))
        if number[row] == len(first):
            first.append(row)
    rows = np.array(first, np.int64)
    if len(rows) == batch.turns:
        return rollouts
    parent = np.where(batch.parent >= 0, number[batch.parent], -1)
    _require_one_tree(batch, names, number, rows, parent)
    owners, trajectory = np.unique(batch.trajectory[rows], return_inverse=True)
    parent = parent[rows]
    made = replace(
        batch,
        parent=parent,
        after=parent,
        kept_tokens=batch.kept_tokens[rows],
        prompt_tokens=batch.prompt_tokens[rows],
        output_tokens=batch.output_tokens[rows],
        pause_ns=batch.pause_ns[rows],
        arrival_ns=batch.arrival_ns[rows],
        trajectory=trajectory,
        segments=None if batch.segments is None else _chosen(batch.segments, rows),
        ids=Numbered(len(owners)),
    )
    missing = None if rollouts.missing is None else rollouts.missing[rows]
    return replace(rollouts, batch=sealed(made), paths=Ragged(rollouts.entries.offsets, number), missing=missing)


def _require_one_tree(batch: Batch, names: Sequence[Hashable], number: Ints, rows: Ints, parent: Ints) -> None:
    """Refuse turns of one name that are not one turn."""
    representative = rows[number]
    same = (
        (parent == parent[representative])
        & (batch.prompt_tokens == batch.prompt_tokens[representative])
        & (batch.output_tokens == batch.output_tokens[representative])
    )
    if same.all():
        return
    row = int(np.flatnonzero(~same)[0])
    raise InputError(
        f"rollouts {int(batch.trajectory[representative[row]])} and {int(batch.trajectory[row])} differ in a turn "
        f"called {names[row]!r}, or before it",
        field="steps",
        remedy="Give one name to turns only where tokens and all turns before them are the same",
    )


def _chosen(segments: Segments, rows: Ints) -> Segments:
    counts = np.diff(segments.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    at = np.arange(int(offsets[-1])) + np.repeat(segments.offsets[rows] - offsets[:-1], counts)
    return Segments(offsets, segments.kind[at], segments.tool[at], segments.tokens[at])
