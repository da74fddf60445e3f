"""``price``: logs of any number of files priced shard by shard, here or on a Ray cluster, into a folder of Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.errors import InputError, KvsimError
from kvsim.pricing import require_price, resolve_pricing
from kvsim.scale.manifest import Manifest
from kvsim.scale.pricing import Asked, Priced, price_shard
from kvsim.scale.shards import shards_of
from kvsim.scale.store import Store

if TYPE_CHECKING:
    from kvsim.architecture import Architecture
    from kvsim.calibration import Calibration
    from kvsim.engine import EngineConfig
    from kvsim.hardware import Gpu
    from kvsim.load import Load
    from kvsim.logs.source import Paths
    from kvsim.scale.shards import Shard
    from kvsim.scale.store import Receipt

Progress = Callable[[Priced, int, int], None]
"""Called with a shard that is done, how many are, and how many there are."""


def price(
    paths: Paths,
    out: str | os.PathLike[str],
    *,
    model: str | Architecture,
    gpu: str | Gpu | Sequence[str | Gpu],
    load: Load | None = None,
    engine: EngineConfig | None = None,
    calibration: str | Path | Calibration | None = None,
    usd_per_hour: float | None = None,
    strict: bool = False,
    turns: bool = False,
    format: str = "auto",
    lenient: bool = False,
    tokenizer: str | os.PathLike[str] | None = None,
    together: int | str = 1,
    backend: str = "auto",
    ray: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Price log files into the folder ``out``: a Parquet part a shard, and a manifest of sums when all are done.

    paths, format, lenient, tokenizer: as :func:`kvsim.read` has them; a broken record stops the run, or, leniently, is
        left out and counted in the manifest.
    model, gpu, load, engine, calibration, usd_per_hour, strict, backend: as :func:`kvsim.estimate` has them; several
        GPUs are priced side by side.
    turns: write a table of turns beside that of trajectories.
    together: which files are one shard, read as one batch: so many neighbours, or ``"folder"``: all neighbours in one
        folder. Turns that refer to each other across files need it.
    ray: a cluster (see :mod:`kvsim.scale`); the folder and the files are then to be where all its machines have them.
    progress: called with each shard as soon as it is done.

    Whoever runs it, the same bytes come out. A run that was interrupted goes on where it ended; shards whose files
    changed since are priced anew, more files add theirs. Raises :class:`kvsim.errors.InputError` as ``read`` does, and
    for a folder that holds prices for anything else.
    """
    require_price(usd_per_hour)
    cards = [gpu] if not isinstance(gpu, Sequence) or isinstance(gpu, str) else list(gpu)
    asked = Asked(
        pricings=tuple(resolve_pricing(model, card, engine, load, calibration) for card in cards),
        usd_per_hour=usd_per_hour,
        strict=strict,
        turns=turns,
        format=format,
        lenient=lenient,
        tokenizer=None if tokenizer is None else os.fspath(tokenizer),
        backend=backend,
    )
    _require_gpus(asked)
    shards, store, whole = shards_of(paths, together), Store(out), asked.fingerprint()
    store.begin(whole, asked.statement(), shards)
    receipts: list[Receipt | None] = [None] * len(shards)
    done = 0

    def take(number: int, priced: Priced) -> None:
        nonlocal done
        receipts[number] = priced.receipt
        done += 1
        if progress is not None:
            progress(priced, done, len(shards))

    left = []
    for number, shard in enumerate(shards):
        fingerprint = shard.fingerprint(whole)
        known = store.receipt(shard, fingerprint)
        if known is None:
            left.append((number, shard, fingerprint))
        else:
            take(number, Priced(shard, known))
    for number, priced in _priced(left, asked, store, ray):
        take(number, priced)
    manifest = Manifest.of(store.folder, asked.statement(), [receipt for receipt in receipts if receipt is not None])
    store.finish(manifest.as_object())
    return manifest


Job = tuple[int, "Shard", str]
"""A shard's number, itself, its fingerprint."""


def _priced(jobs: Sequence[Job], asked: Asked, store: Store, ray: str | None) -> Iterator[tuple[int, Priced]]:
    """Shards as they are done; a failure is that of the first shard that fails, as in order."""
    if ray is None or not jobs:
        for number, shard, fingerprint in jobs:
            yield number, Priced(shard, price_shard(shard, asked, fingerprint, store), os.getpid())
        return
    from kvsim.scale.on_ray import price_on

    waiting = {number for number, _, _ in jobs}
    failures: dict[int, KvsimError] = {}
    for number, outcome in price_on(ray, jobs, asked, store):
        waiting.remove(number)
        if isinstance(outcome, KvsimError):
            failures[number] = outcome
        else:
            yield number, outcome
        if failures and not any(other < min(failures) for other in waiting):
            raise failures[min(failures)]


def _require_gpus(asked: Asked) -> None:
    ids = [pricing.gpu.id for pricing in asked.pricings]
    if not ids or len(set(ids)) < len(ids):
        raise InputError(f"{ids} are no different GPUs", field="gpu", remedy="Give each once")
