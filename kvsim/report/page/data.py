"""The data of a page: columns of integers, one value a turn or a trajectory, and the facts that give them meaning."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim.estimation import Estimate
from kvsim.report.page.blame import SOURCES, call_columns, eviction_facts, source_columns, tool_facts
from kvsim.report.page.evidence import calibration_facts
from kvsim.report.page.overview import PARTS
from kvsim.report.page.patterns import pattern_facts
from kvsim.report.page.what_if import what_if_facts
from kvsim.result import STATUSES

if TYPE_CHECKING:
    from kvsim.report.page.inputs import Page
    from kvsim.result import Table
    from kvsim.simulation import Simulation

Json = dict[str, Any]
Ints = npt.NDArray[np.int64]

MOST_REPLICAS = 8
"""A timeline of more replicas than that is their mean."""

SHARE = 10_000
"""Shares are whole ten-thousandths in columns."""


def columns_of(page: Page) -> dict[str, Ints]:
    """Every column: of turns by name (sorted by trajectory), of trajectories and of the engine with a prefix."""
    turns = turn_columns(page)
    trajectories = {f"trajectory.{name}": column for name, column in trajectory_columns(page).items()}
    calls = {f"call.{name}": column for name, column in call_columns(page, _place(page)).items()}
    engine = {} if page.timeline is None else {f"engine.{name}": c for name, c in engine_columns(page.timeline).items()}
    return {**turns, **trajectories, **calls, **engine}


def order_of(page: Page) -> Ints:
    """The batch's rows sorted by trajectory, as the columns of turns have them."""
    return np.argsort(page.result.batch.trajectory, kind="stable")


def _place(page: Page) -> Ints:
    """Where each of the batch's rows stands among the sorted ones."""
    order = order_of(page)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def turn_columns(page: Page) -> dict[str, Ints]:
    """One value a turn. Nanoseconds, tokens, whole byte-seconds; 0 where a turn was not priced.

    ``release_ns`` counts from the trajectory's start; ``parent`` is how many rows up its parent stands, 0 for none;
    ``tool`` is -1 where no tool ran.
    """
    result, batch = page.result, page.result.batch
    order, place = order_of(page), _place(page)
    ok = result.turns.status == STATUSES[0]
    released, start_ns = _release(page), _start(page)
    columns = {name: page.attribution.turns[name] for name, _, _ in PARTS}
    columns |= {
        "release_ns": np.where(ok, released - start_ns[batch.trajectory], 0),
        "prompt_tokens": batch.prompt_tokens,
        "output_tokens": batch.output_tokens,
        "cached_tokens": np.where(ok, result.turns.cached_tokens, 0),
        "recomputed_tokens": np.where(ok, result.turns.recomputed_tokens, 0),
        "gpu_ns": _whole(result.turns.gpu_s * 1e9),
        "kv_byte_s": _whole(result.turns.kv_byte_s),
        "idle_kv_byte_s": _whole(page.attribution.turns.idle_kv_byte_s),
        "parent": np.where(batch.parent >= 0, place - place[batch.parent], 0),
        "tool": batch.tool if batch.tool is not None else np.full(batch.turns, -1),
        "status": (result.turns.status[:, None] == np.array(STATUSES)).argmax(axis=1),
    }
    if not isinstance(result, Estimate):
        columns |= {"preemptions": result.turns.preemptions, "replica": result.turns.replica}
    return {name: column[order] for name, column in columns.items()}


def trajectory_columns(page: Page) -> dict[str, Ints]:
    """One value a trajectory; times -1 where they are unknown. ``start_ns``: of its first turn, in the run's time."""
    result, batch = page.result, page.result.batch
    ends = {
        f"{name}_{end}_ns": _whole(column * 1e9, -1)
        for name in ("latency", "model")
        for end, column in zip(("low", "high"), result.interval.of(f"{name}_s"), strict=True)
    }
    return {
        "turns": np.bincount(batch.trajectory, minlength=len(batch)),
        "start_ns": _start(page),
        "latency_ns": _whole(result.latency_s * 1e9, -1),
        **ends,
        **source_columns(page.attribution),
    }


def engine_columns(timeline: Table) -> dict[str, Ints]:
    """The engine over time: bins of a replica after another, of their mean where there are many."""
    replicas = _replicas(timeline)
    shown = replicas if replicas <= MOST_REPLICAS else 1
    columns = {"kv_use": timeline.kv_use * SHARE, "running": timeline.running * 100, "waiting": timeline.waiting * 100}
    return {
        name: _whole(column.reshape(replicas // shown if shown == 1 else 1, -1).mean(axis=0))
        for name, column in columns.items()
    }


def facts_of(page: Page, columns: Iterable[str]) -> Json:
    """What the columns of these names mean: names, prices, sizes; and the findings that are not columns."""
    parted = [name.partition(".") for name in columns]
    result, batch, pricing = page.result, page.result.batch, page.result.pricing
    estimated = isinstance(result, Estimate)
    price = result.usd_per_hour
    return {
        "kind": "estimate" if estimated else "simulation",
        "ids": list(batch.ids),
        "tools": list(batch.tool_names),
        "statuses": list(STATUSES),
        "usd_per_hour": None if math.isnan(price) else price,
        "block_size": pricing.engine.block_size,
        "kv_bytes_per_block": pricing.kv_bytes_per_block if estimated else pricing.pool_block_bytes,
        "turn_columns": [name for name, dot, _ in parted if not dot],
        "trajectory_columns": [name for of, _, name in parted if of == "trajectory"],
        "engine": None if page.timeline is None else _engine_facts(page.timeline),
        "cliff": None if page.cliff is None else asdict(page.cliff),
        "cliff_absent": page.cliff_absent,
        "sources": SOURCES,
        "tool_totals": tool_facts(page.attribution),
        "evictions": eviction_facts(page) if _recorded(result) else None,
        "calibration": calibration_facts(pricing.calibration),
        "patterns": pattern_facts(page.advice, page.transcripts),
        "what_if": what_if_facts(page.advice),
        "survival": None if page.survival is None else asdict(page.survival),
    }


def _recorded(result: Estimate | Simulation) -> bool:
    """Whether it is known who evicted what."""
    return not isinstance(result, Estimate) and result.keeps_evictions


def _engine_facts(timeline: Table) -> Json:
    replicas = _replicas(timeline)
    times = timeline.time_s
    return {
        "bin_ns": round(float(times[1] - times[0]) * 1e9) if len(times) > replicas else 10**9,
        "bins": len(times) // replicas,
        "replicas": replicas if replicas <= MOST_REPLICAS else 1,
        "mean_of": replicas,
        "scale": SHARE,
    }


def _replicas(timeline: Table) -> int:
    return int(timeline.replica.max(initial=0)) + 1


def _release(page: Page) -> Ints:
    result = page.result
    release_ns: Ints = result.span_ns[0] if isinstance(result, Estimate) else result.served.release_ns
    return release_ns


def _start(page: Page) -> Ints:
    """When the first priced turn of each trajectory was released; 0 where none was."""
    batch = page.result.batch
    ok = page.result.turns.status == STATUSES[0]
    start = np.full(len(batch), np.iinfo(np.int64).max)
    np.minimum.at(start, batch.trajectory[ok], _release(page)[ok])
    start[start == np.iinfo(np.int64).max] = 0
    return start


def _whole(values: npt.NDArray[Any], unknown: int = 0) -> Ints:
    """Rounded to integers."""
    whole: Ints = np.rint(np.nan_to_num(values, nan=unknown)).astype(np.int64)
    return whole
