"""What a price rests on: how the law of a GPU was found, how far off it was, and what lies beyond."""

from __future__ import annotations

from dataclasses import asdict
from math import exp
from typing import TYPE_CHECKING, Any

from kvsim.commands._format import count
from kvsim.uncertainty import COVERAGE

if TYPE_CHECKING:
    from kvsim.calibration import Calibration, Residual
    from kvsim.uncertainty import Uncertainty


def basis(calibration: Calibration) -> str:
    """In a few words: measured, partly measured, or taken over from a relative."""
    if calibration.kind == "inherited":
        return f"datasheet, as {calibration.relative}"
    kernels = any(coefficient.kind == "fitted" for coefficient in calibration.coefficients.values())
    return "measured" if kernels else "partly measured"


def evidence_facts(calibration: Calibration) -> list[str]:
    """What the law of this GPU rests on, and how far off it was on points it had not seen; a line each."""
    short, fitted = basis(calibration), f"fitted {calibration.date}, engine {calibration.engine}"
    if short == "measured":
        lines = [f"measured on this GPU; {fitted}"]
    elif calibration.kind == "measured":
        lines = [f"partly measured: serving only, rates of kernels taken over; {fitted}"]
    else:
        lines = [f"datasheet only: never measured, efficiencies are those of {calibration.relative}"]
    if calibration.note:
        lines.append(calibration.note)
    for regime, residual in calibration.residuals.items():
        points = f"in 90 % of {count(residual.n, 'held-out point')}" if residual.n else "(assumed: nothing to hold out)"
        lines.append(f"{regime} {interval(residual)} off the estimate {points}")
    return lines


def interval(residual: Residual) -> str:
    """How far measured times were from estimates: ``-16 to +22 %``."""
    low, high = (f"{100 * (exp(value) - 1):+.0f}" for value in (residual.q05, residual.q95))
    return f"{low} to {high} %"


def calibration_object(calibration: Calibration) -> dict[str, Any]:
    """The same as JSON; ratios of measured to estimated times."""
    return {
        "kind": calibration.kind,
        "relative": calibration.relative or None,
        "date": calibration.date,
        "engine": calibration.engine,
        "note": calibration.note or None,
        "measured_over_estimated": {
            regime: {
                "low": exp(residual.q05),
                "median": exp(residual.q50),
                "high": exp(residual.q95),
                "points": residual.n,
            }
            for regime, residual in calibration.residuals.items()
        },
    }


def uncertainty_object(uncertainty: Uncertainty) -> dict[str, Any]:
    """How far times may be off as JSON; ratios of measured to priced times."""
    return {
        "coverage": COVERAGE,
        "prefill": asdict(uncertainty.prefill),
        "decode": asdict(uncertainty.decode),
        "beyond_evidence": uncertainty.sentences,
    }
