"""What a run over many shards came to: sums, what was read, and every shard's receipt."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvsim.errors import InputError
from kvsim.logs.report import ReadReport

if TYPE_CHECKING:
    from kvsim.scale.store import Receipt

SCHEMA = "kvsim.prices/1"
_FIRST = 10
"""So many messages about dropped records are kept, as of one read."""

_COUNTED = ("bytes", "trajectories", "turns", "prompt_tokens", "new_tokens", "output_tokens", "estimated_tokens")


@dataclass(frozen=True)
class Manifest:
    """Prices in a folder.

    ``counts``: bytes, trajectories, turns and tokens read. ``read``: as in ``batch.report``, over all shards.
    ``prices``: by GPU ``totals`` (sums over trajectories of which every turn could be priced), ``status_counts`` of
    turns, and ``extremes`` (largest prefill, sequences, longest context). ``shards``: the same of each shard, with its
    files, in the order of the log.
    """

    folder: Path
    asked: Mapping[str, Any]
    counts: Mapping[str, int]
    read: ReadReport
    prices: Mapping[str, Mapping[str, Any]]
    shards: Sequence[Receipt]

    @classmethod
    def of(cls, folder: Path, asked: Mapping[str, Any], receipts: Sequence[Receipt]) -> Manifest:
        """Of shards in the order of the log; sums are added up in that order, whoever was done first."""
        gpus = asked["gpus"]
        return cls(
            folder,
            asked,
            {name: sum(receipt[name] for receipt in receipts) for name in _COUNTED},
            _together([receipt["read"] for receipt in receipts]),
            {gpu: _summed([receipt["prices"][gpu] for receipt in receipts]) for gpu in gpus},
            receipts,
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """The manifest in a folder; InputError where there is none."""
        path = Path(folder).absolute() / "manifest.json"
        try:
            found = msgspec.json.decode(path.read_bytes())
            if found["schema"] != SCHEMA:
                raise LookupError
            return cls.of(path.parent, found["asked"], found["shards"])
        except (OSError, LookupError, TypeError, msgspec.DecodeError):
            remedy = "Run the command that wrote there once more: it goes on where it ended"
            raise InputError("there is no manifest of finished prices", file=str(path), remedy=remedy) from None

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        report = {part.name: getattr(self.read, part.name) for part in fields(self.read)}
        return {
            "schema": SCHEMA,
            "asked": self.asked,
            **self.counts,
            "read": report,
            "prices": self.prices,
            "shards": self.shards,
        }


def _together(reports: Sequence[Mapping[str, Any]]) -> ReadReport:
    """What all reads saw."""
    found = ReadReport()
    for report in reports:
        for part in fields(found):
            value, more = getattr(found, part.name), report[part.name]
            if isinstance(value, Counter):
                value.update(more)
            elif isinstance(value, list):
                value += more[: _FIRST - len(value)]
            elif isinstance(value, int):
                setattr(found, part.name, value + more)
            else:
                setattr(found, part.name, more)
    return found


def _summed(prices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    totals: dict[str, float] = {}
    counts: Counter[str] = Counter()
    extremes: dict[str, int] = {}
    for price in prices:
        for name, value in price["totals"].items():
            # what nobody knows (a GPU without a price) is null in JSON
            totals[name] = totals.get(name, 0) + (float("nan") if value is None else value)
        counts.update(price["status_counts"])
        for name, value in price["extremes"].items():
            extremes[name] = max(extremes.get(name, 0), value)
    return {"totals": totals, "status_counts": dict(counts), "extremes": extremes}
