"""What a price rests on: how the law of a GPU was found, how far off it was, and what lies beyond."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Any

from kvsim.commands._format import count

if TYPE_CHECKING:
    from kvsim.calibration import Calibration, Residual
    from kvsim.estimation import Estimate
    from kvsim.pricing import Pricing


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


def beyond_evidence(estimate: Estimate) -> tuple[str, ...]:
    """One sentence for each way in which the priced turns lie outside what the calibration rests on."""
    batch, pricing, turns = estimate.batch, estimate.pricing, estimate.turns
    priced = turns.status == "ok"
    if not priced.any():
        return ()
    prefilled = int((batch.prompt_tokens - turns.cached_tokens)[priced].max())
    return beyond(
        pricing,
        prefilled_tokens=prefilled,
        sequences=pricing.load.concurrent,
        context_tokens=int((batch.prompt_tokens + batch.output_tokens)[priced].max()),
    )


def beyond(pricing: Pricing, *, prefilled_tokens: int, sequences: int, context_tokens: int) -> tuple[str, ...]:
    """The same for the largest prefill, the most sequences in a step, and the longest context of any turns."""
    from kvsim.step import extrapolated

    return extrapolated(
        pricing.architecture,
        pricing.engine,
        pricing.gpu,
        pricing.calibration,
        step_tokens=min(prefilled_tokens + sequences - 1, pricing.engine.max_num_batched_tokens),
        sequences=sequences,
        context_tokens=context_tokens,
    )
