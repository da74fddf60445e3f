"""When a batch's turns come, as the simulation's kernels take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.backends.contexts import sealed
from kvsim.backends.engine_kernels import END, Workload

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.trajectory import Batch


class Starts(NamedTuple):
    """When trajectories start."""

    start_ns: Ints | None = None
    """Shape (trajectories,), END: when others have ended. None: every turn comes at its logged arrival."""
    refill: int = 1
    """Whenever so many trajectories have ended, as many of those that wait for it start."""


def workload_of(batch: Batch, starts: Starts, refused: Ints, speedup: float = 1.0) -> Workload:
    """Turns in the order of their dependencies.

    ``refused`` (rows,) marks the turns that the engine does not serve. Logged arrivals come ``speedup`` times as fast;
    pauses stay as they are. What does not depend on starts and on what is refused is made once for a batch.
    """
    logged = batch.once("workload", speedup, lambda: sealed(_logged(batch, speedup)))
    start_ns = logged.start_ns if starts.start_ns is None else starts.start_ns
    return logged._replace(start_ns=start_ns, refill=starts.refill, refused=refused)


def _logged(batch: Batch, speedup: float) -> Workload:
    """Every turn served, and at its logged arrival."""
    arrival_ns = batch.arrival_ns if speedup == 1.0 else np.rint(batch.arrival_ns / speedup).astype(np.int64)
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
    np.minimum.at(first_ns, batch.trajectory[roots], arrival_ns[roots])
    first_ns[np.diff(roots_start) == 0] = 0  # all of its turns wait for other trajectories
    return Workload(
        start_ns=first_ns,
        refill=1,
        trajectory=batch.trajectory,
        offset_ns=arrival_ns - first_ns[batch.trajectory],
        pause_ns=batch.pause_ns,
        needs=needs,
        dependants=dependants,
        dependants_start=dependants_start,
        roots=roots,
        roots_start=roots_start,
        refused=np.zeros(batch.turns, np.int64),
    )


def closed_starts(trajectories: int, in_flight: int, stagger_ns: int = 0) -> Starts:
    """The first ``in_flight`` trajectories start ``stagger_ns`` apart, every other one when one ends."""
    start_ns = np.full(trajectories, END, np.int64)
    start_ns[:in_flight] = np.arange(min(in_flight, trajectories)) * stagger_ns
    return Starts(start_ns)


def batch_starts(trajectories: int, size: int, stagger_ns: int = 0) -> Starts:
    """``size`` trajectories at a time: the next ones start when all of them have ended."""
    return closed_starts(trajectories, size, stagger_ns)._replace(refill=size)


def poisson_starts(trajectories: int, per_s: float, seed: int) -> Starts:
    """Starts in file order, with exponential gaps of mean 1 / ``per_s`` seconds; the first at the first gap's end."""
    gaps_s = np.random.default_rng(seed).exponential(1 / per_s, trajectories)
    return Starts(np.rint(np.cumsum(gaps_s) * 1e9).astype(np.int64))


def _grouped(keys: Ints, values: Ints, groups: int) -> tuple[Ints, Ints]:
    """Values by key: those of key k stand at [starts[k], starts[k + 1]), in the order given."""
    starts = np.zeros(groups + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=groups), out=starts[1:])
    if np.all(keys[:-1] <= keys[1:]):
        return starts, np.ascontiguousarray(values)
    return starts, np.ascontiguousarray(values[np.argsort(keys, kind="stable")])
