"""What a run comes to: sums by trajectory and by replica, and the order statistics of times, in whole numbers.

This text and ``csrc/run_sums.hpp`` say the same; the C++ core holds no lock of Python's while it adds up, so that the
points of a sweep do not wait for each other. Whole numbers have the same sum in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.backends import get
from kvsim.backends.interface import AddsUpRuns
from kvsim.errors import InputError
from kvsim.kv_groups import cached_blocks

if TYPE_CHECKING:
    import numpy.typing as npt

    from kvsim.backends.engine_kernels import Served
    from kvsim.backends.interface import Floats, Ints
    from kvsim.trajectory import Batch

NEVER = np.iinfo(np.int64).max
MOST_BLOCK_NS = 2**63


class ByTrajectory(NamedTuple):
    """Of each trajectory, shape (trajectories,); turns that were not served count for the first three alone."""

    refused: Ints
    """1 where a turn was not served."""
    first_release_ns: Ints
    last_finish_ns: Ints
    model_ns: Ints
    queue_ns: Ints
    fresh_prefill_ns: Ints
    recompute_ns: Ints
    decode_ns: Ints
    gpu_ns: Ints
    held_block_ns_high: Ints
    """With those that waited in the cache for the turn that found them there; what weighs 2^32, since a long pause's
    may not fit 64 bits (see :attr:`held_block_ns`)."""
    held_block_ns_low: Ints
    cached_tokens: Ints
    loaded_tokens: Ints
    recomputed_tokens: Ints

    @property
    def held_block_ns(self) -> Floats:
        """Both halves together, rounded once."""
        return _joined(self.held_block_ns_high, self.held_block_ns_low)


class ByReplica(NamedTuple):
    """Of the turns that each replica served."""

    turns: list[int]
    prompt_tokens: list[int]
    output_tokens: list[int]
    cached_tokens: list[int]
    recomputed_tokens: list[int]
    first_release_ns: list[int]
    """NEVER where it served none."""
    last_finish_ns: list[int]
    longest_prefill_tokens: list[int]
    longest_context_tokens: list[int]
    peak_sequences: list[int]
    """The most turns at once between their first step and their end."""


SPREAD = ("ttft", "e2e", "queue", "decode", "latency")
"""The times with order statistics: four of turns and one of trajectories."""


class Spread(NamedTuple):
    """Of times in nanoseconds: how many, their sum, and for each share the neighbours of that quantile."""

    how_many: int
    total_ns: int
    neighbours_ns: list[tuple[int, int]]


class RunSums(NamedTuple):
    """What a run comes to."""

    trajectories: ByTrajectory
    replicas: ByReplica
    whole: dict[str, int]
    """The sums of the trajectories that were served whole, by field of :class:`ByTrajectory`, and ``held_block_ns``."""
    spreads: dict[str, Spread]
    """Over the same by name of :data:`SPREAD`; none where no shares were asked for."""


class Told(NamedTuple):
    """The same as backends tell it."""

    trajectories: Ints
    """A row for each field of :class:`ByTrajectory`."""
    replicas: Ints
    """A row for each field of :class:`ByReplica`."""
    whole: tuple[list[int], list[int]]
    """The sums of the upper and of the lower 32 bits, by field: together they may not fit 64."""
    spreads: Ints
    """A row for each of :data:`SPREAD`: how many, the sums of the times' upper and lower 32 bits, and for each share
    (rising, 0 to 1) the two times that share x (how many - 1) lies between. All 0 where there are none."""


def sums_of(
    batch: Batch,
    served: Served,
    replicas: int,
    block_size: int,
    windows: Sequence[int],
    shares: Sequence[float] = (),
    *,
    where: str,
) -> RunSums:
    """The sums of a run that was simulated by a backend, by its own text where it has one; quantiles of ``shares``."""
    backend = _adds_up(where)
    if backend is None:
        told = run_sums(batch, served, replicas, block_size, windows, shares)
    else:
        told = backend.run_sums(batch.packed(backend), served, replicas, block_size, windows, shares)
    replica_sums = ByReplica(*told.replicas.tolist())
    _require_held(batch, served, block_size, windows, max(replica_sums.last_finish_ns))
    told.trajectories.flags.writeable = False
    whole = {name: (high << 32) + low for name, high, low in zip(ByTrajectory._fields, *told.whole, strict=True)}
    whole["held_block_ns"] = (whole["held_block_ns_high"] << 32) + whole["held_block_ns_low"]
    return RunSums(ByTrajectory(*told.trajectories), replica_sums, whole, _spreads(told.spreads))


def _require_held(batch: Batch, served: Served, block_size: int, windows: Sequence[int], end_ns: int) -> None:
    """Refuse a run in which a turn may have held more blocks x nanoseconds than the engine's 64 bits hold.

    At blocks of 16 tokens that is a million tokens held for 41 hours. A bound: each group is taken to hold all blocks.
    """
    if len(windows) * -(-batch.longest_context // block_size) * end_ns < MOST_BLOCK_NS:
        return
    tokens = batch.prompt_tokens + np.maximum(batch.output_tokens, 1)
    running_ns = np.where(was_served(served), served.finish_ns - served.scheduled_ns, 0)
    most = len(windows) * -(-tokens // block_size) * running_ns.astype(np.float64)
    if not (most >= MOST_BLOCK_NS).any():
        return
    row = int(most.argmax())
    raise InputError(
        f"a turn of trajectory {batch.ids[batch.trajectory[row]]!r} (row {row}) holds {tokens[row]} tokens for up to "
        f"{running_ns[row] / 1e9:.3g} s: blocks x nanoseconds may exceed 64 bits",
        field="block_size",
        remedy="Use longer blocks, or turns that do not run for so long",
    )


def _spreads(told: Ints) -> dict[str, Spread]:
    if not len(told):
        return {}
    return {
        name: Spread(how_many, (high << 32) + low, list(zip(rest[::2], rest[1::2], strict=True)))
        for name, (how_many, high, low, *rest) in zip(SPREAD, told.tolist(), strict=True)
    }


def _adds_up(where: str) -> AddsUpRuns | None:
    """The backend that adds up runs of that one; None: the text below does. Runs of a device are added up here."""
    backend = get("auto" if where == "cuda" else where)
    return backend if isinstance(backend, AddsUpRuns) else None


def held_block_ns(batch: Batch, served: Served, block_size: int, windows: Sequence[int]) -> Floats:
    """What every turn held while it ran, and :func:`idle_block_ns`, rounded once, shape (rows,)."""
    _require_held(batch, served, block_size, windows, int(served.finish_ns.max(initial=0)))
    high, low = _held_halves(batch, served, block_size, windows)
    return _joined(high, low)


def idle_block_ns(batch: Batch, served: Served, block_size: int, windows: Sequence[int]) -> Floats:
    """Blocks that every turn found in the cache x nanoseconds that they waited for it there, shape (rows,)."""
    high, low = _idle_halves(batch, served, block_size, windows)
    return _joined(high, low)


def _held_halves(batch: Batch, served: Served, block_size: int, windows: Sequence[int]) -> tuple[Ints, Ints]:
    high, low = _idle_halves(batch, served, block_size, windows)
    return high + (served.held_block_ns >> 32), low + (served.held_block_ns & 0xFFFFFFFF)


def _idle_halves(batch: Batch, served: Served, block_size: int, windows: Sequence[int]) -> tuple[Ints, Ints]:
    """What weighs 2^32 and what weighs 1: below 2^31 blocks no part of the product overflows."""
    idle_ns = np.maximum(served.scheduled_ns - served.finish_ns[batch.parent], 0)
    stayed = (batch.parent >= 0) & was_served(served)
    found = cached_blocks(windows, (served.cached_tokens - served.loaded_tokens) // block_size, block_size)
    found = np.where(stayed, found, 0)
    low = found * (idle_ns & 0xFFFFFFFF)
    return found * (idle_ns >> 32) + (low >> 32), low & 0xFFFFFFFF


def _joined(high: Ints, low: Ints) -> Floats:
    """One rounding, as long as neither half needs more than 53 bits."""
    return np.asarray(high * 2.0**32 + low, np.float64)


def recomputed_tokens(served: Served) -> Ints:
    """Prompt tokens that had been in the cache and were evicted, -1 where not served, shape (rows,)."""
    lost = np.maximum(served.hittable_tokens - served.cached_tokens, 0)
    return np.where(was_served(served), lost, -1)


def was_served(served: Served) -> npt.NDArray[np.bool_]:
    """Whether each turn was, shape (rows,)."""
    return served.replica >= 0


def run_sums(
    batch: Batch,
    served: Served,
    replicas: int,
    block_size: int,
    windows: Sequence[int],
    shares: Sequence[float],
) -> Told:
    """The sums of a run."""
    by_trajectory = _by_trajectory(batch, served, block_size, windows)
    told = np.array(by_trajectory)
    served_whole = told[:, by_trajectory.refused == 0]
    whole = (served_whole >> 32).sum(axis=1).tolist(), (served_whole & 0xFFFFFFFF).sum(axis=1).tolist()
    by_replica = _by_replica(batch, served, replicas)
    return Told(told, np.array(by_replica), whole, _order(batch, served, by_trajectory, shares))


def _by_trajectory(batch: Batch, served: Served, block_size: int, windows: Sequence[int]) -> ByTrajectory:
    its = was_served(served)
    prefill_ns = served.first_token_ns - served.scheduled_ns
    held_high, held_low = _held_halves(batch, served, block_size, windows)

    def sums(values: Ints) -> Ints:
        return _folded(np.add, 0, values[its], batch.trajectory[its], len(batch))

    return ByTrajectory(
        refused=_folded(np.maximum, 0, (~its).astype(np.int64), batch.trajectory, len(batch)),
        first_release_ns=_folded(np.minimum, NEVER, served.release_ns, batch.trajectory, len(batch)),
        last_finish_ns=_folded(np.maximum, 0, served.finish_ns, batch.trajectory, len(batch)),
        model_ns=sums(served.finish_ns - served.release_ns),
        queue_ns=sums(served.scheduled_ns - served.release_ns),
        fresh_prefill_ns=sums(prefill_ns - served.recompute_ns),
        recompute_ns=sums(served.recompute_ns),
        decode_ns=sums(served.finish_ns - served.first_token_ns),
        gpu_ns=sums(served.gpu_ns),
        held_block_ns_high=sums(held_high),
        held_block_ns_low=sums(held_low),
        cached_tokens=sums(served.cached_tokens),
        loaded_tokens=sums(served.loaded_tokens),
        recomputed_tokens=sums(recomputed_tokens(served)),
    )


def _by_replica(batch: Batch, served: Served, replicas: int) -> list[Ints]:
    its = was_served(served)

    def folded(fold: np.ufunc, start: int, values: Ints) -> Ints:
        return _folded(fold, start, values[its], served.replica[its], replicas)

    return [
        folded(np.add, 0, np.ones(batch.turns, np.int64)),
        folded(np.add, 0, batch.prompt_tokens),
        folded(np.add, 0, batch.output_tokens),
        folded(np.add, 0, served.cached_tokens),
        folded(np.add, 0, recomputed_tokens(served)),
        folded(np.minimum, NEVER, served.release_ns),
        folded(np.maximum, 0, served.finish_ns),
        folded(np.maximum, 0, batch.prompt_tokens - served.cached_tokens),
        folded(np.maximum, 0, batch.prompt_tokens + batch.output_tokens),
        np.array([_peak(served, served.replica == replica) for replica in range(replicas)], np.int64),
    ]


def _folded(fold: np.ufunc, start: int, values: Ints, owners: Ints, count: int) -> Ints:
    found = np.full(count, start)
    fold.at(found, owners, values)
    return found


def _peak(served: Served, its: npt.NDArray[np.bool_]) -> int:
    begun, ended = np.sort(served.scheduled_ns[its]), np.sort(served.finish_ns[its])
    at_once = np.arange(1, len(begun) + 1) - np.searchsorted(ended, begun, "right")
    return int(at_once.max(initial=0))


def _order(batch: Batch, served: Served, trajectories: ByTrajectory, shares: Sequence[float]) -> Ints:
    whole = trajectories.refused == 0
    turns = whole[batch.trajectory]
    times = (
        (served.first_token_ns - served.release_ns)[turns],
        (served.finish_ns - served.release_ns)[turns],
        (served.scheduled_ns - served.release_ns)[turns],
        (served.finish_ns - served.first_token_ns)[turns],
        (trajectories.last_finish_ns - trajectories.first_release_ns)[whole],
    )
    told = np.zeros((len(times) if shares else 0, 3 + 2 * len(shares)), np.int64)
    for row, values in zip(told, times, strict=False):
        if not len(values):
            continue
        row[:3] = len(values), (values >> 32).sum(), (values & 0xFFFFFFFF).sum()
        ordered = np.sort(values)
        for number, share in enumerate(shares):
            below = int(share * (len(values) - 1))
            row[3 + 2 * number :][:2] = ordered[below], ordered[min(below + 1, len(values) - 1)]
    return told
