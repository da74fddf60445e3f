"""The calibration of one GPU, put together from everything that bears on it: what ships for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..calibration import (
    CACHE_FORMATS,
    OVERHEADS,
    QUANTITIES,
    TENSOR_PARALLEL,
    WEIGHT_FORMATS,
    Calibration,
    Coefficient,
    Evidence,
    Regime,
    Residual,
)
from ..hardware import gpu
from .client import era, unqueued
from .coefficients import coefficient, inherited, widened
from .measurements import Column, Table
from .relatives import TRANSFERS, chain
from .robust import next_group
from .serving import TYPICAL, ServingFit
from .study import ENGINE, FEWEST_POINTS, OVERHEAD_DONOR, Study
from .validation import held_out_errors

DATE = "2026-11-22"
"""When the measurements were collected; a calibration's date, so that a rerun makes the same file."""

LATEST = ("0.19 on", "to 0.18", "not stated")
"""Words that mark eras of clients, the latest first; what has none comes last."""


def calibrate(study: Study, name: str) -> Calibration:
    """The calibration of one GPU from everything that bears on it."""
    steps = study.engine_steps(name)
    if steps:
        return steps.calibration
    kernels, serving = study.kernels(name), study.overheads(name)
    measured = bool(kernels.coefficients or serving)
    coefficients = study.coefficients(name)
    overheads, note = _overheads(study, name)
    for fitted in serving.values():
        coefficients = _scaled(coefficients, fitted)
    width = max(study.widening("prefill"), study.widening("decode"))
    return Calibration(
        gpu=name,
        kind="measured" if measured else "inherited",
        relative=next((one for one in chain(name) if one != name), "") if not measured else "",
        date=DATE,
        engine=ENGINE,
        note=note,
        evidence=_evidence(study, name),
        residuals={
            "prefill": _residual(study, name, "prefill"),
            "decode": _residual(study, name, "decode"),
        },
        coefficients={key: widened(key, coefficients[key], width) for key in QUANTITIES},
        overheads={
            engine: {key: widened(key, table[key], width) for key in OVERHEADS} for engine, table in overheads.items()
        },
    )


def _overheads(study: Study, name: str) -> tuple[dict[str, dict[str, Coefficient]], str]:
    own = study.overheads(name)
    out: dict[str, dict[str, Coefficient]] = {}
    unknown = max(study.widening("prefill"), study.widening("decode"))
    for engine, fitted in own.items():
        found = fitted.result
        sources = ", ".join(sorted(set(study.serving(name, engine)["source"].tolist())))
        out[engine] = {
            key: _overhead(key, found.values[key], found.intervals[key], sources, fitted.points, unknown)
            for key in TYPICAL
        }
        out[engine]["request_s"] = _request(study, name, engine)
    if ENGINE in out:
        return out, ""
    donor, _ = _overheads(study, OVERHEAD_DONOR)
    out[ENGINE] = {key: inherited(part, f"{OVERHEAD_DONOR}: serving points") for key, part in donor[ENGINE].items()}
    return out, f"engine overheads of {ENGINE} taken over from {OVERHEAD_DONOR}"


def _request(study: Study, name: str, engine: str) -> Coefficient:
    """A request's way to the engine as the latest of the GPU's published points with times to first token had it."""
    rows = study.parts(name, engine).rows
    rows = rows.where(unqueued(rows))
    pairs = zip(rows["source"].tolist(), rows["engine"].tolist(), strict=True)
    known = {era(*pair, gpu(name).compute_capability) for pair in pairs} & study.ways(engine).eras.keys()
    eras = sorted(known, key=lambda one: [word in one for word in LATEST], reverse=True)
    if not eras:
        return _overhead("request_s", 0.0, (0.0, 0.0), "", 0, 0.0)
    found = study.ways(engine).eras[eras[0]]
    return _overhead("request_s", found.whole.request_s, found.span(), eras[0], len(found.rows), 0.0)


def _overhead(
    name: str, value: float, low_high: tuple[float, float], source: str, n: int, unknown: float
) -> Coefficient:
    """A fitted overhead. Where all draws of models gave one value (there is one model, or none bears on it), it may be
    ``unknown`` (log) off."""
    if unknown and low_high[1] <= low_high[0] * (1 + 1e-6):
        low_high, source = (value / np.exp(unknown), value * np.exp(unknown)), f"{source}; spread assumed"
    return coefficient(name, value, low_high, source, n)


def _scaled(coefficients: Mapping[str, Coefficient], fitted: ServingFit) -> dict[str, Coefficient]:
    """Inherited rates as serving points scaled them."""
    out = dict(coefficients)
    for ending in ("compute", "memory"):
        scale = fitted.result.values.get(f"{ending}_scale")
        if scale is None:
            continue
        for name, part in coefficients.items():
            if name.endswith(f"_{ending}"):
                low, high = QUANTITIES[name].bounds
                moved = [min(high, max(low, scale * number)) for number in (part.value, part.low, part.high)]
                source = f"{part.source}, times {scale:.3g} after {fitted.points} serving points"
                out[name] = replace(part, value=moved[0], low=moved[1], high=moved[2], source=source)
    return out


def _residual(study: Study, name: str, regime: Regime) -> Residual:
    """Quantiles of log(measured / predicted) expected of a model not yet seen: from serving points of models that were
    held out; without, those of held-out kernels and of steps put together from layers; without any, the measured
    GPUs', widened by what inheriting costs."""
    own = list(study.kernels(name).regimes[regime])
    if regime == "prefill":
        own += study.whole_steps(name)
    unseen = held_out_errors(study, name, regime)
    if unseen and (regime == "decode" or not own):  # to the first token a server takes time of its own
        return Residual(sum(map(len, unseen)), *(float(f"{value:.4g}") for value in next_group(unseen)))
    errors = np.concatenate(own) if own else np.array([])
    inherited_rates = not study.kernels(name).coefficients and not study.overheads(name)
    if len(errors) < FEWEST_POINTS:
        errors = np.concatenate([np.concatenate(study.kernels(one).regimes[regime]) for one, _ in TRANSFERS])
        inherited_rates = True
    q05, q50, q95 = (float(value) for value in np.quantile(errors, [0.05, 0.5, 0.95]))
    if inherited_rates:
        width = study.widening(regime)
        q05, q95 = q50 - float(np.hypot(q50 - q05, width)), q50 + float(np.hypot(q95 - q50, width))
    return Residual(0 if inherited_rates else len(errors), *(float(f"{value:.4g}") for value in (q05, q50, q95)))


def _evidence(study: Study, name: str) -> Evidence:
    """The ranges and kinds of what a GPU's coefficients rest on, each table its own or its nearest
    stand-in's."""

    def rows(table: str) -> Table:
        found = (study.measurements.table(table, one) for one in (name, *chain(name)))
        return next(part for part in found if len(part))

    gemm, experts, latent = rows("gemm"), rows("experts"), rows("latent_decode")
    prefill, decode, serving = rows("prefill_attention"), rows("decode_attention"), study.serving(name)
    formats = {"none": "bf16", "fp8": "fp8", "nvfp4": "fp4", "mxfp4": "mxfp4", "int4": "packed"}
    weights = _words(gemm["format"], experts["format"]) | {formats[one] for one in _words(serving["quantization"])}
    ranks = {int(one) for one in np.concatenate([rows("all_reduce")["ranks"], serving["tensor_parallel"]])}
    caches = _words(prefill["cache"], decode["cache"])
    tables = (gemm, experts, prefill, decode, latent, serving)
    return Evidence(
        step_tokens=_span(gemm["tokens"]),
        sequences=_span(decode["sequences"], serving["concurrency"]),
        context_tokens=_span(decode["context"], prefill["new"] + prefill["cached"], serving["prompt_tokens"]),
        tensor_parallel=(1, *(one for one in TENSOR_PARALLEL if one in ranks)),
        weight_formats=tuple(one for one in WEIGHT_FORMATS if one in weights),
        cache_formats=tuple(one for one in CACHE_FORMATS if one in caches),
        families=("dense", "experts", "latent"),
        sources=tuple(sorted(_words(*(part["source"] for part in tables)))),
    )


def _span(*columns: Column) -> tuple[int, int]:
    together = np.concatenate([column.astype(float) for column in columns])
    return max(1, int(together.min())), int(together.max())


def _words(*columns: Column) -> set[str]:
    return {str(word) for column in columns for word in column.tolist()}
