"""What it was priced with, said for people and as JSON; and what could not be priced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isnan
from typing import TYPE_CHECKING, Any

from kvsim.commands._evidence import calibration_object
from kvsim.commands._format import count

if TYPE_CHECKING:
    from kvsim.estimation import Estimate
    from kvsim.hardware import Gpu
    from kvsim.load import Load
    from kvsim.pricing import Pricing
    from kvsim.simulation import Simulation
    from kvsim.trajectory import Batch


def pricing_object(result: Estimate | Simulation) -> dict[str, Any]:
    """Everything the prices rest on, as JSON; the load of an estimate is declared."""
    from kvsim.estimation import Estimate

    pricing = result.pricing
    engine = asdict(pricing.engine)
    weights = engine.pop("weights")
    return {
        "model": pricing.architecture.name,
        "gpu": pricing.gpu.id,
        "usd_per_hour": result.usd_per_hour,
        "kv_capacity_tokens": pricing.engine.kv_capacity_tokens,
        "kv_bytes_per_block": pricing.kv_bytes_per_block,
        "engine": engine | {"weights": weights["name"] if weights else None},
        **({"load": asdict(pricing.load)} if isinstance(result, Estimate) else {}),
        "calibration": calibration_object(pricing.calibration),
        "backend": result.backend,
    }


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
    if isnan(usd_per_hour):
        return "no price known; --usd-per-hour gives one"
    whose = f"marketplace, {gpu.fact('usd_per_hour').kind}" if usd_per_hour == gpu.usd_per_hour else "yours"
    return f"${usd_per_hour:.2f} a GPU-hour ({whose})"


def load_fact(load: Load, batch: Batch) -> str:
    """The load in words."""
    company = "alone in its steps"
    if load.concurrent > 1:
        context = "as long" if load.mean_context is None else f"of {count(load.mean_context)} tokens"
        company = f"{load.concurrent} sequences in a step, the others {context}"
    survival = {
        "never": "nothing is evicted",
        "always": "all KV is evicted at every pause",
        "logged": f"cached tokens as logged, in {count(logged_turns(batch))} of {count(batch.turns, 'turn')}",
        "lru": "no other traffic, so that nothing is evicted",
    }.get(load.kv, f"KV survives pauses of up to {load.ttl_ns / 1e9:g} s")
    if load.kv == "lru" and load.churn_blocks_per_s:
        survival = f"LRU eviction by {load.churn_blocks_per_s:,.0f} new blocks/s"
    return f"{company}; {survival}"


def logged_turns(batch: Batch) -> int:
    """How many turns say how many of their tokens were cached."""
    return 0 if batch.cached_tokens is None else int((batch.cached_tokens >= 0).sum())


def price_warnings(estimate: Estimate) -> list[str]:
    """What of the prices needs attention, with what to do."""
    gpu = estimate.pricing.gpu.id
    warnings = status_warnings(estimate.pricing, estimate.status_counts, "priced")
    if estimate.pricing.load.kv == "logged" and estimate.batch.turns and not logged_turns(estimate.batch):
        warnings.append(
            f"{gpu}: kv=logged, but no turn of the log says how many tokens were cached: priced as if nothing was "
            "evicted; say what survives a pause with --load kv=lru, ttl:SECONDS or always"
        )
    return warnings + [f"{gpu}: beyond the evidence: {sentence}" for sentence in estimate.uncertainty.sentences]


def status_warnings(pricing: Pricing, counts: Mapping[str, int], done: str) -> list[str]:
    """What was not ``done`` because the engine cannot hold it, with what to do."""
    engine, gpu = pricing.engine, pricing.gpu.id
    warnings = []
    if over := counts.get("over_max"):
        warnings.append(
            f"{gpu}: {count(over, 'turn')} beyond the longest context of {count(engine.max_model_len)} tokens: "
            f"not {done}, their trajectories left out of totals; a model with a longer context, or --max-model-len"
        )
    if over := counts.get("over_capacity"):
        warnings.append(
            f"{gpu}: {count(over, 'turn')} beyond the KV cache of {count(engine.kv_capacity_tokens)} tokens: "
            f"not {done}, their trajectories left out of totals; a larger GPU, --tensor-parallel-size or "
            "--kv-cache-dtype fp8"
        )
    return warnings
