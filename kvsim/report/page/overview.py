"""The first screen of a page: its title, a few large numbers, where the time went. JavaScript writes the digits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim import __version__
from kvsim.estimation import Estimate
from kvsim.report.page.blame import source_stacks
from kvsim.report.page.what_if import leads

if TYPE_CHECKING:
    from kvsim.report.page.inputs import Page
    from kvsim.simulation import Simulation

Json = dict[str, Any]

GIB_HOUR = 2**30 * 3600

PARTS = (
    ("tool_ns", "tool pauses", "pause"),
    ("queue_ns", "queue", "queue"),
    ("fresh_ns", "fresh prefill", "fresh"),
    ("recompute_ns", "recompute", "recompute"),
    ("decode_base_ns", "decode", "decode-base"),
    ("decode_context_ns", "decode: reading context", "decode-context"),
    ("decode_beside_ns", "decode: beside others", "decode-beside"),
)
"""The columns that a turn's time is in, their words and their colours."""


def overview_of(page: Page) -> Json:
    """The first screen's contents, as JSON."""
    result, pricing = page.result, page.result.pricing
    engine = pricing.engine
    kind = "estimate" if isinstance(result, Estimate) else "simulation"
    number = len(result.batch)
    what = "1 trajectory" if number == 1 else f"{number:,} trajectories"
    return {
        "kvsim": __version__,
        "title": f"What {what} cost{'s' if number == 1 else ''} on {engine.tensor_parallel_size} x {pricing.gpu.id}",
        "kicker": f"{pricing.architecture.name} · {kind}: {page.how}",
        "warnings": list(page.warnings),
        "tiles": [known(tile) for tile in _tiles(page)],
        "stacks": [_time_stack(page), *source_stacks(page.attribution)],
        "leads": leads(page.advice),
    }


def known(tile: Json) -> Json:
    """The tile without numbers that nobody knows."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in tile.items()
    }


def _tiles(page: Page) -> list[Json]:
    result, run = page.result, page.attribution.run
    counted = page.attribution.counted
    model_s = float(np.nansum(result.model_s))
    recompute_s = int(run.recompute_ns[0]) / 1e9
    left_out = f", {page.attribution.left_out:,} left out" if page.attribution.left_out else ""
    tiles: list[Json] = [
        {
            "label": "Trajectories",
            "value": int(counted.sum()),
            "format": "count",
            "aside": f"{result.batch.turns:,} turns{left_out}",
        },
        _summed(result, "Time in the model", "model_s", "duration"),
    ]
    if math.isnan(result.usd_per_hour):
        tiles.append(_summed(result, "GPU-seconds", "gpu_s", "plain"))
    else:
        price = {"aside": f"at ${result.usd_per_hour:.2f} a GPU-hour"}
        tiles.append(_summed(result, "US dollars", "usd", "money") | price)
    tiles.append(
        {
            "label": "Recompute after eviction",
            "value": recompute_s,
            "format": "duration",
            "aside": f"{100 * recompute_s / model_s:.1f} % of the time in the model" if model_s else None,
        }
    )
    if not isinstance(result, Estimate):
        tiles += _engine_tiles(result)
    held = {"label": "KV held, GiB·h", "value": float(np.nansum(result.kv_byte_s)) / GIB_HOUR, "format": "plain"}
    return [*tiles, held, _latency(page)]


def _summed(result: Estimate | Simulation, label: str, name: str, form: str) -> Json:
    low, high = result.interval.total(name)
    return {"label": label, "value": float(np.nansum(getattr(result, name))), "format": form, "low": low, "high": high}


def _latency(page: Page) -> Json:
    """The mean time from the first arrival to the last finish."""
    counted = page.attribution.counted
    ends = page.result.interval.of("latency_s")
    low, mean, high = (
        float(column[counted].mean()) if counted.any() else math.nan
        for column in (ends[0], page.result.latency_s, ends[1])
    )
    return {"label": "Latency, mean", "value": mean, "format": "duration", "low": low, "high": high}


def _engine_tiles(run: Simulation) -> list[Json]:
    engine = run.engine
    usable = engine.usable_blocks
    blocks = f"{engine.evicted_blocks:,} blocks evicted; {engine.peak_blocks:,} of {usable:,} in use at most"
    return [{"label": "Prompt tokens cached", "value": engine.hit_rate, "format": "percent", "aside": blocks}]


def _time_stack(page: Page) -> Json:
    run = page.attribution.run
    parts = [{"label": label, "colour": colour, "value": int(run[name][0]) / 1e9} for name, label, colour in PARTS]
    return {"label": "Where the time went", "format": "duration", "parts": parts}
