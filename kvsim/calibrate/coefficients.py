"""How coefficients are made: fitted, taken over from elsewhere, and less sure for that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..calibration import OVERHEADS, QUANTITIES, Coefficient


def bounds_of(name: str) -> tuple[float, float]:
    """The physical bounds of a rate or an overhead."""
    return (QUANTITIES[name] if name in QUANTITIES else OVERHEADS[name]).bounds


def coefficient(name: str, value: float, low_high: tuple[float, float], source: str, n: int) -> Coefficient:
    """A fitted coefficient, cut to the digits its interval deserves and to its bounds."""
    least, most = bounds_of(name)
    low, value, high = (min(most, max(least, float(f"{number:.5g}"))) for number in (low_high[0], value, low_high[1]))
    return Coefficient(value, min(low, value), max(high, value), "fitted", source, n)


def inherited(part: Coefficient, source: str) -> Coefficient:
    """A coefficient taken over from elsewhere; its interval is widened in :func:`kvsim.calibrate.shipped.calibrate`."""
    return replace(part, kind="inherited", source=source, n=0)


def widened(name: str, part: Coefficient, width: float) -> Coefficient:
    """An inherited coefficient with its interval stretched by a factor e**width each way, within bounds."""
    if part.kind != "inherited":
        return part
    low, high = bounds_of(name)
    stretch = float(np.exp(width))
    return replace(
        part,
        low=min(part.value, max(low, part.low / stretch)),
        high=max(part.value, min(high, part.high * stretch)),
    )
