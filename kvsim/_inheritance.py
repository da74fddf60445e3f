"""The coefficients of a GPU that none ship for: those of the nearest measured GPU, less certain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from math import exp, log

from kvsim.calibration import (
    OVERHEADS,
    QUANTITIES,
    Calibration,
    Coefficient,
    Quantity,
    Regime,
    Residual,
    shipped_calibration,
)
from kvsim.errors import InputError
from kvsim.hardware import Gpu, gpu, gpus

WIDENING = 0.4807
"""How far (log, 90 %) an inherited rate may be off: what inheriting costs among measured GPUs."""

_NEVER_MEASURED = "h100-pcie"
"""A GPU that ships without measurements: errors and engine overheads of such GPUs are all the same."""

_BEARING_ON_TIME = (
    "compute_capability",
    "bf16",
    "half_flop_per_s",
    "fp8_flop_per_s",
    "fp4_flop_per_s",
    "memory_bytes",
    "memory_bandwidth_byte_per_s",
    "l2_bytes",
    "sm_count",
    "nvlink_byte_per_s",
)


@lru_cache(maxsize=256)
def calibration_of(card: Gpu) -> Calibration:
    """What ships for the GPU, else what it inherits: a card of a new id from the nearest measured GPU, one that
    differs from the shipped card of its id from that card."""
    if card.id not in gpus():
        relative = nearest_measured(card)
        return _inherited(card, relative, f"no calibration ships for {card.id}: that of {relative.id} taken over")
    relative = gpu(card.id)
    changed = [name for name in _BEARING_ON_TIME if getattr(card, name) != getattr(relative, name)]
    if not changed:
        return shipped_calibration(card.id)
    return _inherited(card, relative, f"{', '.join(changed)} not as in the shipped {card.id}, which was measured")


def own(calibration: Calibration, card: Gpu) -> Calibration:
    """The calibration, if it is one of this GPU; InputError otherwise."""
    if calibration.gpu != card.id:
        raise InputError(
            f"the calibration is of {calibration.gpu}, the GPU is {card.id}",
            remedy=f"Give one of {card.id}; to take over another's, change its field gpu in a copy.",
            field="calibration",
        )
    return calibration


def nearest_measured(card: Gpu) -> Gpu:
    """The measured GPU nearest in compute capability, then with kernels of its own measured, then in bandwidth; for a
    processor the measured processors, those with the same instructions first."""

    def distance(other: Gpu) -> tuple[bool, float, bool, float]:
        return (
            card.compute_capability != other.compute_capability and card.is_processor,
            abs(_generation(card) - _generation(other)),
            not shipped_calibration(other.id).residuals["prefill"].n,
            abs(log(card.memory_bandwidth_byte_per_s / other.memory_bandwidth_byte_per_s)),
        )

    measured = (gpu(name) for name in gpus() if shipped_calibration(name).kind == "measured")
    return min((other for other in measured if other.is_processor == card.is_processor), key=distance)


def _generation(card: Gpu) -> float:
    """The compute capability as a number; far from all of them where it is none ("gfx942")."""
    whole, _, part = card.compute_capability.partition(".")
    return float(f"{whole}.{part or 0}") if whole.isdecimal() and (part or "0").isdecimal() else -100.0


def _inherited(card: Gpu, relative: Gpu, note: str) -> Calibration:
    source, typical = shipped_calibration(relative.id), shipped_calibration(_NEVER_MEASURED)
    overheads = source.overheads if relative.id == card.id or relative.is_processor else typical.overheads
    return replace(
        source,
        gpu=card.id,
        kind="inherited",
        relative=relative.id,
        engine=source.engine if source.engine in overheads else typical.engine,
        note=note,
        residuals={regime: _wider(source.residuals[regime], typical.residuals[regime]) for regime in _REGIMES},
        coefficients=_taken_over(source.coefficients, QUANTITIES, relative.id),
        overheads={engine: _taken_over(table, OVERHEADS, relative.id) for engine, table in overheads.items()},
    )


_REGIMES: tuple[Regime, ...] = ("prefill", "decode")


def _wider(one: Residual, other: Residual) -> Residual:
    return Residual(0, min(one.q05, other.q05), other.q50, max(one.q95, other.q95))


def _taken_over(
    coefficients: Mapping[str, Coefficient], quantities: Mapping[str, Quantity], relative: str
) -> dict[str, Coefficient]:
    """The same values as inherited ones; the intervals of those that were not yet stretched, within bounds."""
    out, stretch = {}, exp(WIDENING)
    for name, part in coefficients.items():
        if part.kind == "inherited":
            out[name] = part
            continue
        least, most = quantities[name].bounds
        low, high = min(part.value, max(least, part.low / stretch)), max(part.value, min(most, part.high * stretch))
        out[name] = Coefficient(part.value, low, high, "inherited", f"{relative}: {part.source}", 0)
    return out
