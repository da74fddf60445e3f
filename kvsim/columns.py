"""An estimate or a simulation as columns by name, for JSON, CSV and Parquet: docs/json.md says what each means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim.estimation import Estimate

if TYPE_CHECKING:
    from kvsim.simulation import Simulation

Columns = dict[str, Any]
"""Lists or arrays of one length."""

Mask = npt.NDArray[np.bool_]

SUMMED = (
    "turns",
    "prompt_tokens",
    "new_tokens",
    "output_tokens",
    "cached_tokens",
    "recomputed_tokens",
    "latency_s",
    "model_s",
    "queue_s",
    "fresh_prefill_s",
    "recompute_s",
    "decode_s",
    "pause_s",
    "gpu_s",
    "kv_byte_s",
    "usd",
    "joules",
)

_TIMES = ("latency_s", "model_s", "fresh_prefill_s", "recompute_s", "decode_s")
_COSTS = ("gpu_s", "kv_byte_s", "usd", "joules")


def trajectory_columns(result: Estimate | Simulation) -> Columns:
    """One value a trajectory, in the batch's order."""
    batch = result.batch
    times: tuple[str, ...]
    if isinstance(result, Estimate):
        whole, times = {"priced": result.priced}, _TIMES
    else:
        whole, times = {"served": result.served_whole}, (*_TIMES, "queue_s")
    columns: Columns = {
        "id": list(batch.ids),
        "turns": _per_trajectory(result, np.ones(batch.turns, np.int64)),
        **whole,
        "prompt_tokens": _per_trajectory(result, batch.prompt_tokens),
        "new_tokens": _per_trajectory(result, batch.prompt_tokens - batch.kept_tokens),
        "output_tokens": _per_trajectory(result, batch.output_tokens),
        "cached_tokens": result.cached_tokens,
        "recomputed_tokens": result.recomputed_tokens,
    }
    columns |= {name: getattr(result, name) for name in times}
    columns["pause_s"] = _per_trajectory(result, batch.pause_ns) / 1e9
    return columns | {name: getattr(result, name) for name in _COSTS}


def trajectory_ends(result: Estimate | Simulation) -> Columns:
    """The ends of the 90 % intervals of each trajectory's latency and time in the model."""
    ends: Columns = {}
    for name in ("latency_s", "model_s"):
        ends[f"{name}_low"], ends[f"{name}_high"] = result.interval.of(name)
    return ends


def turn_ends(result: Estimate | Simulation) -> Columns:
    """The same of each turn's time to first token and end to end."""
    ends: Columns = {}
    for name in ("ttft_s", "e2e_s"):
        ends[f"{name}_low"], ends[f"{name}_high"] = result.interval.of(name, turns=True)
    return ends


def turn_columns(result: Estimate | Simulation) -> Columns:
    """One value a turn, rows as in the batch."""
    batch = result.batch
    tool = batch.tool if batch.tool is not None else np.full(batch.turns, -1)
    tools = [None, *batch.tool_names]
    columns: Columns = {
        "trajectory": [batch.ids[number] for number in batch.trajectory.tolist()],
        "row": np.arange(batch.turns),
        "parent": [row if row >= 0 else None for row in batch.parent.tolist()],
        "tool": [tools[number + 1] for number in tool.tolist()],
        "prompt_tokens": batch.prompt_tokens,
        "kept_tokens": batch.kept_tokens,
        "output_tokens": batch.output_tokens,
    }
    return columns | dict(result.turns)


def sums(columns: Columns, among: Mask) -> dict[str, float]:
    """How many trajectories those are, and the sums of their columns: of :data:`SUMMED` those that there are."""
    result: dict[str, float] = {"trajectories": int(among.sum())}
    return result | {name: columns[name][among].sum().item() for name in SUMMED if name in columns}


def records(columns: Columns) -> list[dict[str, Any]]:
    """The rows as objects of plain Python values."""
    plain = [values.tolist() if isinstance(values, np.ndarray) else values for values in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]


def _per_trajectory(result: Estimate | Simulation, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    sums = np.zeros(len(result.batch), np.int64)
    np.add.at(sums, result.batch.trajectory, values)
    return sums
