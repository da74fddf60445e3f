"""GPUs: what one card can do, in base SI units, each number with its source.

Facts live in one TOML file a GPU; units stand in the keys, and every number is a table with ``value``,
``kind`` ("datasheet", "measured", "fitted" or "unverified"), ``source`` and ``date`` (when it was last
checked), and maybe a ``note``; a source that several numbers share stands once in a table ``[sources]``. A
user's own card is a file of the same form: ``gpu("./my-card.toml")``.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from kvsim import _profiles
from kvsim.errors import InputError

__all__ = ["Fact", "Gpu", "gpu", "gpus"]

Kind: TypeAlias = Literal["datasheet", "measured", "fitted", "unverified"]
"""How far a number can be trusted; "unverified" rests on one weak source, on memory, or on a stated rule."""

KINDS: tuple[Kind, ...] = ("datasheet", "measured", "fitted", "unverified")

_TEXTS = ("id", "name", "architecture", "compute_capability", "half_precision")
_SCALES: Mapping[str, tuple[str, float]] = {
    # key in the file: (attribute, factor to base units)
    "half_dense_tflop_per_s": ("half_flop_per_s", 1e12),
    "fp8_dense_tflop_per_s": ("fp8_flop_per_s", 1e12),
    "fp4_dense_tflop_per_s": ("fp4_flop_per_s", 1e12),
    "memory_gb": ("memory_bytes", 1e9),
    "device_memory_gib": ("device_memory_bytes", 2**30),
    "memory_bandwidth_gb_per_s": ("memory_bandwidth_byte_per_s", 1e9),
    "l2_mib": ("l2_bytes", 2**20),
    "sm_count": ("sm_count", 1),
    "host_link_gb_per_s_per_direction": ("host_link_byte_per_s", 1e9),
    "nvlink_total_gb_per_s": ("nvlink_byte_per_s", 1e9),
    "tdp_w": ("tdp_w", 1),
    "marketplace_usd_per_hour": ("usd_per_hour", 1),
    "serverless_usd_per_hour": ("serverless_usd_per_hour", 1),
}
_OPTIONAL = (
    "fp8_dense_tflop_per_s",
    "fp4_dense_tflop_per_s",
    "marketplace_usd_per_hour",
    "serverless_usd_per_hour",
)
_WHOLE = ("memory_bytes", "device_memory_bytes", "l2_bytes", "sm_count")
_MAY_BE_ZERO = ("nvlink_total_gb_per_s",)


@dataclass(frozen=True, slots=True)
class Fact:
    """Where one number comes from. ``date`` is when it was last checked."""

    kind: Kind
    source: str
    date: datetime.date
    note: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Rates are per second, dense (no sparsity), at the precision named; None where it has none.

    half_flop_per_s: bf16 tensor rate with fp32 accumulation; fp16 where ``bf16`` is false (Volta, Turing).
    memory_bytes: as marketed, in decimal gigabytes.
    device_memory_bytes: the total that the driver reports to a process (cudaMemGetInfo), lower than the
        marketed figure by ECC and the driver's own reserve; what vLLM multiplies by
        ``gpu_memory_utilization``.
    memory_bandwidth_byte_per_s: peak of the device memory.
    l2_bytes, sm_count: the last-level cache shared by all SMs, and their number (compute units on AMD).
    host_link_byte_per_s: peak to or from the host, one direction. nvlink_byte_per_s: to other GPUs, both
        directions together, 0 without a link. tdp_w: watts.
    usd_per_hour: a marketplace's price of one GPU; serverless_usd_per_hour: a serverless offer's. None:
    unknown.
    facts: source of each number by its attribute's name.
    """

    id: str
    name: str
    architecture: str
    compute_capability: str
    bf16: bool
    half_flop_per_s: float
    fp8_flop_per_s: float | None
    fp4_flop_per_s: float | None
    memory_bytes: int
    device_memory_bytes: int
    memory_bandwidth_byte_per_s: float
    l2_bytes: int
    sm_count: int
    host_link_byte_per_s: float
    nvlink_byte_per_s: float
    tdp_w: float
    usd_per_hour: float | None
    serverless_usd_per_hour: float | None
    facts: tuple[tuple[str, Fact], ...]

    @property
    def is_processor(self) -> bool:
        """Whether the profile is that of a CPU."""
        return self.architecture.endswith("CPU")

    def fact(self, attribute: str) -> Fact:
        """The source of a number, by its attribute's name; KeyError if the number is absent."""
        return dict(self.facts)[attribute]

    def unverified(self) -> tuple[str, ...]:
        """The attributes whose numbers are unverified."""
        return tuple(attribute for attribute, fact in self.facts if fact.kind == "unverified")


def gpu(name: str | Path) -> Gpu:
    """The GPU of an id ("h100-sxm"), an alias ("H100-80GB-SXM", "H100"), or a path to a TOML file.

    Names are compared without regard to case. Raises UnknownNameError for a name that is unknown or means
    several GPUs, InputError naming file, field and remedy for a file that breaks the schema.
    """
    if isinstance(name, Path) or _profiles.looks_like_path(name, ".toml"):
        path = Path(name).expanduser()
        return _read(_profiles.parse_toml(_profiles.read_text(path), file=str(path)), file=str(path))
    return _shipped()[_names().resolve(str(name))]


def gpus() -> list[str]:
    """The ids of all shipped GPUs."""
    return sorted(_shipped())


@cache
def _tables() -> Mapping[str, Mapping[str, Any]]:
    """The shipped files' tables by file name without .toml."""
    texts = _profiles.shipped("gpus")
    return {stem: _profiles.parse_toml(text, file=f"gpus/{stem}.toml") for stem, text in texts.items()}


@cache
def _shipped() -> Mapping[str, Gpu]:
    found = {}
    for stem, table in _tables().items():
        card = _read(table, file=f"gpus/{stem}.toml")
        if card.id != stem:
            raise InputError(
                f"{card.id!r} is not the file's name",
                remedy="Rename one.",
                file=f"gpus/{stem}.toml",
                field="id",
            )
        found[card.id] = card
    return found


@cache
def _names() -> _profiles.Names:
    return _profiles.Names(
        "GPU", {stem: (table["name"], *table.get("aliases", ())) for stem, table in _tables().items()}
    )


def _read(table: Mapping[str, Any], *, file: str) -> Gpu:
    required = (*_TEXTS, *(key for key in _SCALES if key not in _OPTIONAL))
    _profiles.check_fields(table, file=file, required=required, optional=(*_OPTIONAL, "aliases", "sources"))
    values: dict[str, Any] = dict.fromkeys(attribute for attribute, _ in _SCALES.values())
    facts = []
    for key, (attribute, factor) in _SCALES.items():
        if key in table:
            number, fact = _number(table[key], table.get("sources", {}), file=file, field=key)
            scaled = number * factor
            values[attribute] = round(scaled) if attribute in _WHOLE else scaled
            facts.append((attribute, fact))
    for key in _TEXTS:
        if not isinstance(table[key], str) or not table[key]:
            raise InputError("is no text", remedy="Give a text in quotes.", file=file, field=key)
    if table["half_precision"] not in ("bf16", "fp16"):
        raise InputError(
            f"{table['half_precision']!r} is no 16-bit precision",
            remedy='Use "bf16", or "fp16" for a card without bf16.',
            file=file,
            field="half_precision",
        )
    return Gpu(
        id=table["id"],
        name=table["name"],
        architecture=table["architecture"],
        compute_capability=table["compute_capability"],
        bf16=table["half_precision"] == "bf16",
        facts=tuple(facts),
        **values,
    )


def _number(entry: Any, sources: Mapping[str, str], *, file: str, field: str) -> tuple[float, Fact]:
    """A number and its source from ``{ value, kind, source, date, note? }``; ``sources`` spells names out."""
    if not isinstance(entry, Mapping):
        raise InputError(
            "a number needs its source",
            remedy='Write { value = ..., kind = "datasheet", source = "...", date = 2026-01-31 }.',
            file=file,
            field=field,
        )
    _profiles.check_fields(
        entry, file=file, required=("value", "kind", "source", "date"), optional=("note",), under=field
    )
    value, kind, date = entry["value"], entry["kind"], entry["date"]
    lowest_is_fine = field in _MAY_BE_ZERO
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
        or (value == 0 and not lowest_is_fine)
    ):
        raise InputError(f"{value!r} is no positive number", remedy="Correct it.", file=file, field=f"{field}.value")
    if kind not in KINDS:
        raise InputError(
            f"{kind!r} is no kind of source",
            remedy="Use one of " + ", ".join(KINDS) + ".",
            file=file,
            field=f"{field}.kind",
        )
    if isinstance(date, datetime.datetime) or not isinstance(date, datetime.date):
        raise InputError(f"{date!r} is no date", remedy="Write 2026-01-31, unquoted.", file=file, field=f"{field}.date")
    source = str(entry["source"])
    note = str(entry.get("note", ""))
    return float(value), Fact(cast(Kind, kind), sources.get(source, source), date, note)
