"""What a run comes to: sums by trajectory and by replica, and the order statistics of times, in whole numbers.

This text and ``csrc/run_sums.hpp`` say the same; the C++ core holds no lock of Python's while it adds up, so that the
points of a sweep do not wait for each other. Whole numbers have the same sum in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from kvsim.backends import get
from kvsim.kv_groups import cached_blocks

if TYPE_CHECKING:
    import numpy.typing as npt

    from kvsim.backends.engine_kernels import Served
    from kvsim.backends.interface import AddsUpRuns, Ints
    from kvsim.trajectory import Batch

NEVER = np.iinfo(np.int64).max


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
    held_block_ns: Ints
    """With those that waited in the cache for the turn that found them there."""
    cached_tokens: Ints
    loaded_tokens: Ints
    recomputed_tokens: Ints


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


class RunSums(NamedTuple):
    """Both."""

    trajectories: ByTrajectory
    replicas: ByReplica


SPREAD = ("ttft", "e2e", "queue", "decode", "latency")
"""The times with order statistics: four of turns and one of trajectories."""


class Spread(NamedTuple):
    """Of times in nanoseconds: how many, their sum, and for each share the neighbours of that quantile."""

    how_many: int
    total_ns: int
    neighbours_ns: list[tuple[int, int]]


def sums_of(
    batch: Batch, served: Served, replicas: int, block_size: int, windows: Sequence[int], where: str
) -> RunSums:
    """The sums of a run that was simulated by a backend, by its own text where it has one."""
    backend = _adds_up(where)
    if backend is None:
        return run_sums(batch, served, replicas, block_size, windows)
    return backend.run_sums(batch.packed(backend), served, replicas, block_size, windows)


def spreads_of(
    batch: Batch, served: Served, trajectories: ByTrajectory, shares: Sequence[float], where: str
) -> dict[str, Spread]:
    """The order statistics of a run by name of :data:`SPREAD`, over the trajectories that were served whole."""
    backend = _adds_up(where)
    if backend is None:
        told = run_spreads(batch, served, trajectories, shares)
    else:
        told = backend.run_spreads(batch.packed(backend), served, trajectories, shares)
    return {
        name: Spread(count, (high << 32) + low, list(zip(rest[::2], rest[1::2], strict=True)))
        for name, (count, high, low, *rest) in zip(SPREAD, told.tolist(), strict=True)
    }


def _adds_up(where: str) -> AddsUpRuns | None:
    """The backend that adds up runs of that one; None: the text below does. Runs of a device are added up here."""
    backend = get("auto" if where == "cuda" else where)
    return cast("AddsUpRuns", backend) if hasattr(backend, "run_sums") else None


def idle_block_ns(batch: Batch, served: Served, block_size: int, windows: Sequence[int]) -> Ints:
    """Blocks that every turn found in the cache x nanoseconds that they waited for it there, shape (rows,)."""
    idle_ns = np.maximum(served.scheduled_ns - served.finish_ns[batch.parent], 0)
    stayed = (batch.parent >= 0) & was_served(served)
    found = cached_blocks(windows, (served.cached_tokens - served.loaded_tokens) // block_size, block_size)
    return np.where(stayed, found * idle_ns, 0)


def recomputed_tokens(served: Served) -> Ints:
    """Prompt tokens that had been in the cache and were evicted, -1 where not served, shape (rows,)."""
    lost = np.maximum(served.hittable_tokens - served.cached_tokens, 0)
    return np.where(was_served(served), lost, -1)


def was_served(served: Served) -> npt.NDArray[np.bool_]:
    """Whether each turn was, shape (rows,)."""
    return served.replica >= 0


def run_sums(batch: Batch, served: Served, replicas: int, block_size: int, windows: Sequence[int]) -> RunSums:
    """The sums of a run."""
    its = was_served(served)
    prefill_ns = served.first_token_ns - served.scheduled_ns
    lost = recomputed_tokens(served)

    def trajectories(values: Ints) -> Ints:
        sums = np.zeros(len(batch), np.int64)
        np.add.at(sums, batch.trajectory[its], values[its])
        return sums

    def fold(fold_in: np.ufunc, start: int, values: Ints, owners: Ints, count: int) -> Ints:
        found = np.full(count, start)
        fold_in.at(found, owners, values)
        return found

    refused = np.zeros(len(batch), np.int64)
    refused[batch.trajectory[~its]] = 1
    by_trajectory = ByTrajectory(
        refused=refused,
        first_release_ns=fold(np.minimum, NEVER, served.release_ns, batch.trajectory, len(batch)),
        last_finish_ns=fold(np.maximum, 0, served.finish_ns, batch.trajectory, len(batch)),
        model_ns=trajectories(served.finish_ns - served.release_ns),
        queue_ns=trajectories(served.scheduled_ns - served.release_ns),
        fresh_prefill_ns=trajectories(prefill_ns - served.recompute_ns),
        recompute_ns=trajectories(served.recompute_ns),
        decode_ns=trajectories(served.finish_ns - served.first_token_ns),
        gpu_ns=trajectories(served.gpu_ns),
        held_block_ns=trajectories(served.held_block_ns + idle_block_ns(batch, served, block_size, windows)),
        cached_tokens=trajectories(served.cached_tokens),
        loaded_tokens=trajectories(served.loaded_tokens),
        recomputed_tokens=trajectories(lost),
    )

    def on_replicas(fold_in: np.ufunc, start: int, values: Ints) -> list[int]:
        told: list[int] = fold(fold_in, start, values[its], served.replica[its], replicas).tolist()
        return told

    by_replica = ByReplica(
        turns=on_replicas(np.add, 0, np.ones(batch.turns, np.int64)),
        prompt_tokens=on_replicas(np.add, 0, batch.prompt_tokens),
        output_tokens=on_replicas(np.add, 0, batch.output_tokens),
        cached_tokens=on_replicas(np.add, 0, served.cached_tokens),
        recomputed_tokens=on_replicas(np.add, 0, lost),
        first_release_ns=on_replicas(np.minimum, NEVER, served.release_ns),
        last_finish_ns=on_replicas(np.maximum, 0, served.finish_ns),
        longest_prefill_tokens=on_replicas(np.maximum, 0, batch.prompt_tokens - served.cached_tokens),
        longest_context_tokens=on_replicas(np.maximum, 0, batch.prompt_tokens + batch.output_tokens),
        peak_sequences=[_peak(served, served.replica == replica) for replica in range(replicas)],
    )
    return RunSums(by_trajectory, by_replica)


def _peak(served: Served, its: npt.NDArray[np.bool_]) -> int:
    begun, ended = np.sort(served.scheduled_ns[its]), np.sort(served.finish_ns[its])
    at_once = np.arange(1, len(begun) + 1) - np.searchsorted(ended, begun, "right")
    return int(at_once.max(initial=0))


def run_spreads(batch: Batch, served: Served, trajectories: ByTrajectory, shares: Sequence[float]) -> Ints:
    """A row for each of :data:`SPREAD`: how many, the sums of the times' upper and lower 32 bits, and for each share
    (rising, 0 to 1) the two times that share x (count - 1) lies between. All 0 where there are none.
    """
    whole = trajectories.refused == 0
    turns = whole[batch.trajectory]
    times = (
        (served.first_token_ns - served.release_ns)[turns],
        (served.finish_ns - served.release_ns)[turns],
        (served.scheduled_ns - served.release_ns)[turns],
        (served.finish_ns - served.first_token_ns)[turns],
        (trajectories.last_finish_ns - trajectories.first_release_ns)[whole],
    )
    told = np.zeros((len(times), 3 + 2 * len(shares)), np.int64)
    for row, values in zip(told, times, strict=True):
        if not len(values):
            continue
        row[:3] = len(values), (values >> 32).sum(), (values & 0xFFFFFFFF).sum()
        ordered = np.sort(values)
        for number, share in enumerate(shares):
            below = int(share * (len(values) - 1))
            row[3 + 2 * number :][:2] = ordered[below], ordered[min(below + 1, len(values) - 1)]
    return told
