"""What each rollout would have cost without each of its turns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim._door import sealed
from kvsim.backends import get
from kvsim.backends.without_kernels import Left
from kvsim.estimation import Estimate
from kvsim.trajectory import Batch, Ints, Numbered, Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvsim.reward.rollouts import Rollouts
    from kvsim.reward.units import Floats, Unit

#: Rollouts with a turn left out are priced so many turns at a time: about 100 bytes each stay in a core's cache.
TURNS_AT_ONCE = 1 << 15


def costs_without(rollouts: Rollouts, estimate: Estimate, unit: Unit) -> Floats:
    """The cost of each rollout without each of its turns, in the order of ``rollouts.entries``; 0 without its only one.

    What "without" means says :mod:`kvsim.backends.without_kernels`. Every rollout of n turns is priced n times more.
    """
    paths = rollouts.entries
    counts = np.diff(paths.offsets)
    costs = np.zeros(len(paths.values))
    owner = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(owner)) - paths.offsets[owner]
    several = np.flatnonzero(counts[owner] > 1)
    base = 0 if _self_contained(rollouts) else estimate.batch.turns
    for chosen in _pieces(several, counts[owner[several]] - 1):
        batch = _left(estimate, paths, owner[chosen], position[chosen], base)
        priced = Estimate(batch, estimate.pricing, get(estimate.backend), estimate.usd_per_hour)
        values = unit.trajectories(priced)
        costs[chosen] = values[len(values) - len(chosen) :]
    return costs


def _pieces(removals: Ints, turns: Ints) -> Iterator[Ints]:
    """The removals in pieces of about TURNS_AT_ONCE turns."""
    piece = np.cumsum(turns) // TURNS_AT_ONCE
    for part in np.split(removals, np.flatnonzero(np.diff(piece)) + 1):
        if part.size:
            yield part


def _self_contained(rollouts: Rollouts) -> bool:
    """Whether no turn needs one that its own rollout does not go through."""
    batch = rollouts.batch
    if rollouts.paths is not None:
        return False
    for needed in (batch.parent, batch.after):
        if ((needed >= 0) & (batch.trajectory[needed] != batch.trajectory)).any():
            return False
    waits = batch.waits_for
    return waits is None or bool((batch.trajectory[waits.values] == batch.trajectory[waits.owners]).all())


def _left(estimate: Estimate, paths: Ragged, rollouts: Ints, positions: Ints, base: int) -> Batch:
    """A batch of the rollouts without the turns at these positions, behind the whole batch where ``base`` is not 0."""
    batch = estimate.batch
    backend = get(estimate.backend)
    packed = batch.packed(backend)
    counts = np.diff(paths.offsets)[rollouts] - 1
    rows = int(counts.sum())
    joins = batch.waits_for is not None
    lengths = [rows] * 7 + [rows + 1 if joins else 0, 0]
    left = Left._make(np.empty(length, np.int64) for length in lengths)
    waited = backend.without(packed, paths, rollouts, positions, base, left)
    if waited:
        left = left._replace(waits_rows=np.empty(waited, np.int64))
        backend.without(packed, paths, rollouts, positions, base, left)
    source = left.source
    cached = None
    if batch.cached_tokens is not None:  # what is kept no longer was no longer found either
        logged = batch.cached_tokens[source]
        found = np.maximum(logged - (batch.kept_tokens[source] - left.kept), 0)
        cached = np.where(logged < 0, -1, np.minimum(found, left.prompt))
    trajectory = np.repeat(np.arange(len(rollouts)), counts)
    made = Batch(
        parent=left.parent,
        after=left.after,
        kept_tokens=left.kept,
        prompt_tokens=left.prompt,
        output_tokens=batch.output_tokens[source],
        pause_ns=left.pause_ns,
        arrival_ns=left.arrival_ns,
        trajectory=trajectory,
        waits_for=Ragged(left.waits_offsets, left.waits_rows) if joins else None,
        cached_tokens=cached,
        ids=Numbered(len(rollouts)),
    )
    return sealed(made if base == 0 else _behind(batch, made))


def _behind(batch: Batch, left: Batch) -> Batch:
    """One batch of both, whose second part refers to rows of the first already."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name), getattr(left, name)])
        for name in ("parent", "after", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "arrival_ns")
    }
    waits = None
    if batch.waits_for is not None and left.waits_for is not None:
        offsets = np.concatenate([batch.waits_for.offsets, left.waits_for.offsets[1:] + batch.waits_for.offsets[-1]])
        waits = Ragged(offsets, np.concatenate([batch.waits_for.values, left.waits_for.values]))
    cached = None
    if batch.cached_tokens is not None and left.cached_tokens is not None:
        cached = np.concatenate([batch.cached_tokens, left.cached_tokens])
    order = None
    if batch.order is not None:
        order = np.concatenate([batch.order, np.arange(batch.turns, batch.turns + left.turns)])
    return replace(
        left,
        **columns,
        trajectory=np.concatenate([batch.trajectory, left.trajectory + len(batch)]),
        waits_for=waits,
        cached_tokens=cached,
        order=order,
        ids=Numbered(len(batch) + len(left)),
    )
