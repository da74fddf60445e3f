"""Work on a Ray cluster: Ray Data for shards of logs, tasks for points of sweeps and for resampled fits.

A worker that dies is replaced, and what it was at is done again by another: shards that were written are not priced
twice, and the rest leaves nothing behind that could be taken for a result.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from kvsim.errors import KvsimError
from kvsim.scale.cluster import RETRIES, Cluster, told_apart, workers_died
from kvsim.scale.pricing import Asked, Priced, price_shard, where

if TYPE_CHECKING:
    from kvsim.scale.run import Job
    from kvsim.scale.store import Receipt, Store
    from kvsim.simulated import Simulation
    from kvsim.trajectory import Batch

Made = TypeVar("Made")

_BLOCKS = 200
_BLOCKS_A_CORE = 8
"""Shards go out in so many blocks at least, where there are as many: progress and lost work come in blocks."""


def price_on(
    address: str, jobs: Sequence[Job], asked: Asked, store: Store
) -> Iterator[tuple[int, Priced | KvsimError]]:
    """Shards by number as they are done on a cluster, or what went wrong with them."""
    most = RETRIES + 1

    def price(job: Job) -> Receipt:
        _, shard, fingerprint = job
        if store.begun(shard) > most:  # Ray Data would go on for ever
            raise workers_died(where(shard), most)
        receipt = price_shard(shard, asked, fingerprint, store)
        store.ended(shard)
        return receipt

    outcome = told_apart(price)

    def row(item: Mapping[str, Any]) -> dict[str, Any]:
        receipt, error = outcome(pickle.loads(item["job"]))
        return {
            "number": item["number"],
            "receipt": msgspec.json.encode(receipt),
            "error": pickle.dumps(error),
            "process": os.getpid(),
        }

    by_number = {number: shard for number, shard, _ in jobs}
    items = [{"number": job[0], "job": pickle.dumps(job)} for job in jobs]
    with Cluster(address) as cluster, cluster.failures():
        blocks = min(len(jobs), max(_BLOCKS, _BLOCKS_A_CORE * cluster.cores))
        for made in cluster.data().from_items(items, override_num_blocks=blocks).map(row, num_cpus=1).iter_rows():
            error, number = pickle.loads(made["error"]), int(made["number"])
            receipt = msgspec.json.decode(made["receipt"])
            yield number, error if error is not None else Priced(by_number[number], receipt, int(made["process"]))


def sweep(
    batch: Batch,
    points: Iterable[Mapping[str, Any]],
    *,
    keep: Callable[[Simulation], Made],
    ray: str | None = None,
    **common: Any,
) -> Iterator[Made]:
    """:func:`kvsim.sweep` with its points on a cluster: what ``keep`` keeps of each, in the order of the points.

    Without ``ray`` it is :func:`kvsim.sweep` on one thread, and yields the same.
    """
    from kvsim.sweeping import simulated_at, sweep

    if ray is None:
        yield from sweep(batch, points, keep=keep, **common)
        return
    with Cluster(ray) as cluster:
        everywhere = cluster.shared(batch)
        yield from cluster.map(
            lambda batch, point: keep(simulated_at(batch, point, common)), enumerate(points), everywhere
        )


@contextmanager
def resampling(ray: str) -> Iterator[None]:
    """Inside, the fits behind the intervals of calibrations run on a cluster; they come out as they do here."""
    from kvsim.calibrate.resampling import mapping

    with Cluster(ray) as cluster, mapping(cluster.map):
        yield
