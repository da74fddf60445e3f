"""When a batch's turns come, as the simulation's kernels take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvsim.backends.engine_kernels import END, Workload

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.trajectory import Batch


def workload_of(batch: Batch, start_ns: Ints | None, refused: Ints) -> Workload:
    """Turns in the order of their dependencies.

    ``start_ns`` (trajectories,) says when each trajectory starts (END: when another one ends); None leaves every turn
    at its logged arrival. ``refused`` (rows,) marks the turns that the engine does not serve.
    """
    rows = np.arange(batch.turns)
    after = batch.after
    waiting, needed = rows[after >= 0], after[after >= 0]
    if batch.waits_for is not None:
        waiting = np.concatenate((waiting, batch.waits_for.owners))
        needed = np.concatenate((needed, batch.waits_for.values))
    needs = np.bincount(waiting, minlength=batch.turns).astype(np.int64)
    dependants_start, dependants = _grouped(needed, waiting, batch.turns)
    roots = rows[after < 0]
    needs[roots[needs[roots] > 0]] += 1  # their own arrival counts too
    roots_start, roots = _grouped(batch.trajectory[roots], roots, len(batch))

    first_ns = np.full(len(batch), np.iinfo(np.int64).max)
    np.minimum.at(first_ns, batch.trajectory[roots], batch.arrival_ns[roots])
    first_ns[np.diff(roots_start) == 0] = 0  # all of its turns wait for other trajectories
    return Workload(
        start_ns=first_ns if start_ns is None else start_ns,
        trajectory=batch.trajectory,
        offset_ns=batch.arrival_ns - first_ns[batch.trajectory],
        pause_ns=batch.pause_ns,
        needs=needs,
        dependants=dependants,
        dependants_start=dependants_start,
        roots=roots,
        roots_start=roots_start,
        refused=refused,
    )


def closed_starts(trajectories: int, in_flight: int) -> Ints:
    """The first ``in_flight`` trajectories start at 0, every other one when one ends."""
    starts = np.full(trajectories, END, np.int64)
    starts[:in_flight] = 0
    return starts


def poisson_starts(trajectories: int, per_s: float, seed: int) -> Ints:
    """Starts in file order, with exponential gaps of mean 1 / ``per_s`` seconds; the first at the first gap's end."""
    gaps_s = np.random.default_rng(seed).exponential(1 / per_s, trajectories)
    starts: Ints = np.rint(np.cumsum(gaps_s) * 1e9).astype(np.int64)
    return starts


def _grouped(keys: Ints, values: Ints, groups: int) -> tuple[Ints, Ints]:
    """Values by key: those of key k stand at [starts[k], starts[k + 1]), in the order given."""
    starts = np.zeros(groups + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=groups), out=starts[1:])
    if np.all(keys[:-1] <= keys[1:]):
        return starts, np.ascontiguousarray(values)
    return starts, np.ascontiguousarray(values[np.argsort(keys, kind="stable")])
