"""What a person should know of a read and an estimate: facts in one place for text and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import exp
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim.commands._columns import trajectory_columns
from kvsim.commands._format import count, percent
from kvsim.estimation import Estimate

if TYPE_CHECKING:
    from kvsim.calibration import Calibration, Residual
    from kvsim.hardware import Gpu
    from kvsim.load import Load
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch

Mask = npt.NDArray[np.bool_]


# what was read


def input_object(batch: Batch) -> dict[str, Any]:
    """Counts of the read, as JSON."""
    report = batch.report
    return {
        "trajectories": len(batch),
        "turns": batch.turns,
        "prompt_tokens": int(batch.prompt_tokens.sum()),
        "new_tokens": int((batch.prompt_tokens - batch.kept_tokens).sum()),
        "output_tokens": int(batch.output_tokens.sum()),
        "estimated_token_share": batch.estimated_share,
        **(asdict(report) if report is not None else {}),
    }


def read_facts(batch: Batch) -> list[str]:
    """What was read, a line each."""
    report, lines = batch.report, []
    size = f"{count(len(batch), 'trajectory', 'trajectories')}, {count(batch.turns, 'turn')}"
    if report is not None:
        formats = ", ".join(report.formats)
        size = f"{count(report.files, 'file')} ({formats or 'none readable'}): {size}"
        if report.tool_results:
            size += f", {count(report.tool_results, 'tool result')}"
    lines.append(size)
    read = input_object(batch)
    estimated = percent(batch.estimated_share) if batch.estimated_share else "none"
    lines.append(
        f"{count(read['prompt_tokens'])} prompt tokens, {count(read['new_tokens'])} of them new; "
        f"{count(read['output_tokens'])} output tokens; {estimated} estimated"
    )
    if report is not None:
        lines += _counted("left out by design", report.skipped)
        lines += _counted("dropped as broken", report.dropped)
        lines += _counted("kept with a remark", report.flagged)
    return lines


def read_warnings(batch: Batch) -> list[str]:
    """What of the read may surprise, with what to do."""
    report, warnings = batch.report, []
    if report is not None and report.dropped:
        what = count(report.dropped.total(), "broken record")
        warnings.append(f"{what} left out; the first: {report.first_dropped[0]}")
    if batch.estimated_share and report is not None:
        advice = "; --tokenizer counts it exactly" if report.counted_with.startswith("characters") else ""
        share = percent(batch.estimated_share)
        warnings.append(f"{share} of new and output tokens were estimated from text by {report.counted_with}{advice}")
    return warnings


def _counted(label: str, counts: Counter[str]) -> list[str]:
    return [f"{label}: {number:,} x {reason}" for reason, number in counts.most_common()]


# what it was priced with


def pricing_object(estimate: Estimate) -> dict[str, Any]:
    """Everything the prices rest on, as JSON."""
    pricing = estimate.pricing
    engine = asdict(pricing.engine)
    weights = engine.pop("weights")
    calibration = pricing.calibration
    return {
        "model": pricing.architecture.name,
        "gpu": pricing.gpu.id,
        "usd_per_hour": estimate.usd_per_hour,
        "kv_capacity_tokens": pricing.engine.kv_capacity_tokens,
        "kv_bytes_per_block": pricing.kv_bytes_per_block,
        "engine": engine | {"weights": weights["name"] if weights else None},
        "load": asdict(pricing.load),
        "calibration": {
            "kind": calibration.kind,
            "relative": calibration.relative or None,
            "date": calibration.date,
            "engine": calibration.engine,
            "note": calibration.note or None,
            "measured_over_estimated": {
                regime: _interval(residual) for regime, residual in calibration.residuals.items()
            },
        },
        "backend": estimate.backend,
    }


def _interval(residual: Residual) -> dict[str, float | int]:
    low, median, high = (exp(value) for value in (residual.q05, residual.q50, residual.q95))
    return {"low": low, "median": median, "high": high, "points": residual.n}


def priced_facts(pricing: Pricing, usd_per_hour: float) -> list[str]:
    """Model, GPU and what the engine comes to, a line each."""
    engine = pricing.engine
    weights = engine.weights.name if engine.weights else engine.dtype
    capacity = f"KV cache of {count(engine.kv_capacity_tokens)} tokens ({engine.kv_cache_dtype})"
    return [
        f"{pricing.architecture.name} ({weights}) on {engine.tensor_parallel_size} x {pricing.gpu.id}",
        f"{capacity}, longest context {count(engine.max_model_len)}",
        price_fact(pricing.gpu, usd_per_hour),
    ]


def price_fact(gpu: Gpu, usd_per_hour: float) -> str:
    """The price of a GPU-hour, and whose it is."""
    if np.isnan(usd_per_hour):
        return "no price known; --usd-per-hour gives one"
    whose = f"marketplace, {gpu.fact('usd_per_hour').kind}" if usd_per_hour == gpu.usd_per_hour else "yours"
    return f"${usd_per_hour:.2f} a GPU-hour ({whose})"


def load_fact(load: Load) -> str:
    """The load in words."""
    company = "alone in its steps"
    if load.concurrent > 1:
        context = "as long" if load.mean_context is None else f"of {count(load.mean_context)} tokens"
        company = f"{load.concurrent} sequences in a step, the others {context}"
    survival = {
        "never": "nothing is evicted",
        "always": "all KV is evicted at every pause",
        "logged": "cached tokens as logged",
        "lru": "no other traffic, so that nothing is evicted",
    }.get(load.kv, f"KV survives pauses of up to {load.ttl_ns / 1e9:g} s")
    if load.kv == "lru" and load.churn_blocks_per_s:
        survival = f"LRU eviction by {load.churn_blocks_per_s:,.0f} new blocks/s"
    return f"{company}; {survival}"


def evidence_facts(calibration: Calibration) -> list[str]:
    """What the law of this GPU rests on, and how far off it was on points it had not seen."""
    if calibration.kind == "inherited":
        lines = [f"datasheet only: never measured, efficiencies are those of {calibration.relative}"]
    else:
        lines = [f"measured on this GPU, fitted {calibration.date} (engine {calibration.engine})"]
        lines += [calibration.note] if calibration.note else []
    for regime, residual in calibration.residuals.items():
        points = f"in 90 % of {count(residual.n, 'held-out point')}" if residual.n else "assumed, nothing to hold out"
        lines.append(f"{regime} {interval(residual)} off the estimate {points}")
    return lines


def interval(residual: Residual) -> str:
    """How far measured times were from estimates: ``-16 to +22 %``."""
    low, high = (f"{100 * (exp(value) - 1):+.0f}" for value in (residual.q05, residual.q95))
    return f"{low} to {high} %"


def price_warnings(estimate: Estimate) -> list[str]:
    """What of the prices needs attention, with what to do."""
    engine, counts = estimate.pricing.engine, estimate.status_counts
    gpu = estimate.pricing.gpu.id
    warnings = []
    if over := counts.get("over_max"):
        warnings.append(
            f"{gpu}: {count(over, 'turn')} beyond the longest context of {count(engine.max_model_len)} tokens: "
            "not priced, their trajectories left out of totals; a model with a longer context, or --max-model-len"
        )
    if over := counts.get("over_capacity"):
        warnings.append(
            f"{gpu}: {count(over, 'turn')} beyond the KV cache of {count(engine.kv_capacity_tokens)} tokens: "
            "not priced, their trajectories left out of totals; a larger GPU, --tensor-parallel-size or "
            "--kv-cache-dtype fp8"
        )
    return warnings + [f"{gpu}: beyond the evidence: {sentence}" for sentence in beyond_evidence(estimate)]


def beyond_evidence(estimate: Estimate) -> tuple[str, ...]:
    """One sentence for each way in which the priced turns lie outside what the calibration rests on."""
    from kvsim.step import extrapolated

    batch, pricing, turns = estimate.batch, estimate.pricing, estimate.turns
    priced = turns.status == "ok"
    if not priced.any():
        return ()
    prefilled = int((batch.prompt_tokens - turns.cached_tokens)[priced].max())
    others = pricing.load.concurrent - 1
    return extrapolated(
        pricing.architecture,
        pricing.engine,
        pricing.gpu,
        pricing.calibration,
        step_tokens=min(prefilled + others, pricing.engine.max_num_batched_tokens),
        sequences=1 + others,
        context_tokens=int((batch.prompt_tokens + batch.output_tokens)[priced].max()),
    )


# what it came to

_SUMMED = (
    "turns",
    "prompt_tokens",
    "new_tokens",
    "output_tokens",
    "cached_tokens",
    "recomputed_tokens",
    "latency_s",
    "model_s",
    "fresh_prefill_s",
    "recompute_s",
    "decode_s",
    "pause_s",
    "gpu_s",
    "kv_byte_s",
    "usd",
    "joules",
)


def totals(estimate: Estimate, among: Mask | None = None) -> dict[str, float]:
    """Sums over the trajectories that could be priced, or those of ``among``; and the interval of ``model_s``."""
    chosen = estimate.priced if among is None else among
    columns = trajectory_columns(estimate)
    result: dict[str, float] = {"trajectories": int(chosen.sum())}
    result |= {name: columns[name][chosen].sum().item() for name in _SUMMED}
    for bound in ("low", "high"):
        result[f"model_s_{bound}"] = _bound(estimate.pricing.calibration, result, bound)
    return result


def _bound(calibration: Calibration, sums: dict[str, float], bound: str) -> float:
    """Model time if every step erred like the 5 % or 95 % quantile of held-out points."""
    quantile = {"low": "q05", "high": "q95"}[bound]
    prefill, decode = (exp(getattr(calibration.residuals[regime], quantile)) for regime in ("prefill", "decode"))
    return float((sums["fresh_prefill_s"] + sums["recompute_s"]) * prefill + sums["decode_s"] * decode)


def priced_by_all(estimates: Sequence[Estimate]) -> Mask:
    """The trajectories that every one of the estimates could price."""
    return np.logical_and.reduce([estimate.priced for estimate in estimates])
