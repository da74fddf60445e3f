"""What a point of a sweep comes to: one row of plain values, from a simulation or from the reason there is none."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kvsim.commands._run_totals import QUANTILES, SPREAD_S, distributions, engine_totals, run_totals
from kvsim.commands.sweep._points import Point

if TYPE_CHECKING:
    from kvsim.errors import KvsimError
    from kvsim.simulation import Simulation

Row = dict[str, Any]
"""A value for each of :data:`COLUMNS`; None where it is unknown."""

_POINT: dict[str, type] = {
    "model": str,
    "gpu": str,
    "num_gpu_blocks_override": int,
    "replicas": int,
    "router": str,
    "retention": str,
    "pause_scale": float,
    "arrivals": str,
}
_OUTCOME: dict[str, type] = {"status": str, "reason": str}
_COUNTS: dict[str, type] = {
    "kv_capacity_tokens": int,
    "trajectories": int,
    "turns": int,
    "over_max": int,
    "over_capacity": int,
    "mean_pause_s": float,
}
_ENGINE: dict[str, type] = {
    "turns_per_s": float,
    "output_tokens_per_s": float,
    "makespan_s": float,
    "busy_s": float,
    "busy_share": float,
    "steps": int,
    "hit_rate": float,
    "recompute_share": float,
    "reuse_share": float,
    "evicted_blocks": int,
    "preemptions": int,
    "peak_blocks": int,
    "usable_blocks": int,
    "peak_sequences": int,
}
_SUMS: dict[str, type] = {
    "prompt_tokens": int,
    "output_tokens": int,
    "cached_tokens": int,
    "recomputed_tokens": int,
    "model_s": float,
    "queue_s": float,
    "fresh_prefill_s": float,
    "recompute_s": float,
    "decode_s": float,
    "pause_s": float,
    "gpu_s": float,
    "kv_byte_s": float,
    "usd": float,
    "joules": float,
}
_SPREAD: dict[str, type] = {f"{name}_{figure}": float for name in SPREAD_S for figure in ("mean", *QUANTILES)}
_REACH: dict[str, type] = {"prefilled_tokens": int, "sequences": int, "context_tokens": int}

COLUMNS: dict[str, type] = {**_POINT, **_OUTCOME, **_COUNTS, **_ENGINE, **_SUMS, **_SPREAD, **_REACH}
"""Names and types, in the order of the CSV."""

OK = "ok"


def row_of(point: Point, run: Simulation, mean_pause_s: float) -> Row:
    """The row of a simulation."""
    spreads = distributions(run)  # first: with them the core adds up all the rest
    engine, sums = engine_totals(run), run_totals(run)
    found: Row = {
        **{axis: getattr(point, axis) for axis in _POINT},
        **sums,
        **engine,
        **run.extremes,
        "mean_pause_s": mean_pause_s,
    }
    found |= {name: run.status_counts.get(name, 0) for name in ("over_max", "over_capacity")}
    found |= {f"{name}_{figure}": value for name, spread in spreads.items() for figure, value in spread.items()}
    found["kv_capacity_tokens"] = run.pricing.engine.kv_capacity_tokens
    found["status"] = OK if sums["trajectories"] else "none_served"
    found["reason"] = None if sums["trajectories"] else "no trajectory could be served whole"
    return {name: _known(found[name]) for name in COLUMNS}


def row_without_run(point: Point, status: str, reason: KvsimError) -> Row:
    """The row of a point that cannot be simulated."""
    return dict.fromkeys(COLUMNS) | asdict(point) | {"status": status, "reason": str(reason)}


def _known(value: Any) -> Any:
    return None if value != value else value
