"""What a shard costs: read, priced on each GPU, written, and said in a receipt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import msgspec

from kvsim import __version__
from kvsim.backends import get
from kvsim.columns import Columns, sums, trajectory_columns, turn_columns
from kvsim.errors import InputError
from kvsim.estimation import Estimate
from kvsim.logs import read
from kvsim.scale.shards import Shard

if TYPE_CHECKING:
    from kvsim.pricing import Pricing
    from kvsim.scale.store import Receipt, Store
    from kvsim.trajectory import Batch


@dataclass(frozen=True)
class Asked:
    """What all shards have in common. ``pricings``: one a GPU."""

    pricings: tuple[Pricing, ...]
    usd_per_hour: float | None
    strict: bool
    turns: bool
    format: str
    lenient: bool
    tokenizer: str | None
    backend: str

    def statement(self) -> dict[str, Any]:
        """What prices rest on, for people and for :meth:`fingerprint`; the backend makes no difference to them."""
        said = {
            "kvsim": __version__,
            "model": self.pricings[0].architecture.name,
            "gpus": [pricing.gpu.id for pricing in self.pricings],
            "load": asdict(self.pricings[0].load),
            "engines": [_plain(pricing.engine) for pricing in self.pricings],
            "usd_per_hour": self.usd_per_hour,
            "strict": self.strict,
            "turns": self.turns,
            "format": self.format,
            "lenient": self.lenient,
            "tokenizer": self.tokenizer,
        }
        return as_read(said)

    def fingerprint(self) -> str:
        """Of the statement and of every fact about model, GPU and calibration."""
        facts = [(repr(one.architecture), repr(one.gpu), repr(one.calibration)) for one in self.pricings]
        return hashlib.sha256(msgspec.json.encode([self.statement(), facts])).hexdigest()[:16]


@dataclass(frozen=True)
class Priced:
    """A shard that is done: its receipt, and which process did it; None where an earlier run had."""

    shard: Shard
    receipt: Receipt
    process: int | None = None


def price_shard(shard: Shard, asked: Asked, fingerprint: str, store: Store) -> Receipt:
    """Read, price and write a shard, unless it is done; ``fingerprint`` is the shard's."""
    if (done := store.receipt(shard, fingerprint)) is not None:
        return done
    batch = read(shard.files, asked.format, lenient=asked.lenient, tokenizer=asked.tokenizer)
    if Shard.of(shard.files) != shard:
        raise InputError(
            "changed while it was read", file=where(shard), remedy="Price files that nobody writes to, then start anew"
        )
    estimates = [_estimate(batch, pricing, asked, shard) for pricing in asked.pricings]
    tables = {"trajectories": _table(shard, estimates, trajectory_columns)}
    if asked.turns:
        tables["turns"] = _table(shard, estimates, turn_columns)
    receipt = as_read(_receipt(shard, fingerprint, batch, estimates))
    store.write(shard, receipt, tables)
    return receipt


def _estimate(batch: Batch, pricing: Pricing, asked: Asked, shard: Shard) -> Estimate:
    found = Estimate(batch, pricing, get(asked.backend), asked.usd_per_hour)
    if asked.strict:
        try:
            found.require_priced()
        except InputError as error:
            raise InputError(error.problem, file=where(shard), field=error.field, remedy=error.remedy) from None
        found.uncertainty.refuse_extrapolation()
    return found


def as_read(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as whoever reads it in a file has it: lists for tuples, None for NaN."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))
    return found


def where(shard: Shard) -> str:
    """The shard's files, for people."""
    more = len(shard.files) - 1
    return shard.files[0] + (f" and {more} more" if more else "")


def _table(shard: Shard, estimates: list[Estimate], columns: Any) -> Columns:
    """All GPUs' rows one below the other, with where they come from in front; of several files nobody knows which."""
    import numpy as np

    file = shard.files[0] if len(shard.files) == 1 else None
    parts = []
    for estimate in estimates:
        own = columns(estimate)
        rows = len(next(iter(own.values())))
        parts.append({"gpu": [estimate.pricing.gpu.id] * rows, "file": [file] * rows, **own})
    return {
        name: np.concatenate([part[name] for part in parts])
        if not isinstance(values, list)
        else [value for part in parts for value in part[name]]
        for name, values in parts[0].items()
    }


def _receipt(shard: Shard, fingerprint: str, batch: Batch, estimates: list[Estimate]) -> Receipt:
    report = batch.report
    assert report is not None
    new = int((batch.prompt_tokens - batch.kept_tokens).sum())
    estimated = 0 if batch.estimated_tokens is None else int(batch.estimated_tokens.sum())
    return {
        "name": shard.name,
        "fingerprint": fingerprint,
        "files": list(shard.files),
        "bytes": sum(shard.sizes),
        "trajectories": len(batch),
        "turns": batch.turns,
        "prompt_tokens": int(batch.prompt_tokens.sum()),
        "new_tokens": new,
        "output_tokens": int(batch.output_tokens.sum()),
        "estimated_tokens": estimated,
        "read": {part.name: getattr(report, part.name) for part in fields(report)},
        "prices": {
            estimate.pricing.gpu.id: {
                "totals": sums(trajectory_columns(estimate), estimate.priced),
                "status_counts": estimate.status_counts,
                "extremes": estimate.extremes,
            }
            for estimate in estimates
        },
    }


def _plain(engine: Any) -> Mapping[str, Any]:
    found = asdict(engine)
    weights = found.pop("weights")
    return found | {"weights": weights["name"] if weights else None}
