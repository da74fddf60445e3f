"""An estimate or a simulation as columns by name, for JSON, CSV and Parquet: docs/json.md says what each means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim.estimation import Estimate

if TYPE_CHECKING:
    from kvsim.simulation import Simulation
    from kvsim.trajectory import Batch

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


def trajectory_columns(result: Estimate | Simulation) -> Columns:
    """One value a trajectory, in the batch's order."""
    whole = {"priced": result.priced} if isinstance(result, Estimate) else {"served": result.served_whole}
    turns, *rest = summed_columns(result).items()
    return {"id": list(result.batch.ids), **dict([turns]), **whole, **dict(rest)}


def summed_columns(result: Estimate | Simulation) -> Columns:
    """Those that can be added up."""
    batch = result.batch
    of_batch = batch.once("by trajectory", None, lambda: _of_batch(batch))
    columns: Columns = {
        **{name: of_batch[name] for name in ("turns", "prompt_tokens", "new_tokens", "output_tokens")},
        "cached_tokens": result.cached_tokens,
        "recomputed_tokens": result.recomputed_tokens,
    }
    times = _TIMES if isinstance(result, Estimate) else (*_TIMES, "queue_s")
    columns |= {name: getattr(result, name) for name in times}
    columns["pause_s"] = of_batch["pause_s"]
    columns["gpu_s"] = gpu_s = result.gpu_s
    columns["kv_byte_s"] = result.kv_byte_s
    return columns | {"usd": result.usd_of(gpu_s), "joules": result.joules_of(gpu_s)}


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
    count = int(np.count_nonzero(among))
    every = count == len(among)
    result: dict[str, float] = {"trajectories": count}
    for name in SUMMED:
        if name in columns:
            result[name] = np.add.reduce(columns[name] if every else columns[name][among]).item()
    return result


def batch_sums(batch: Batch, among: Mask) -> dict[str, float]:
    """How many trajectories those are, and the sums of what does not depend on the engine."""
    of_batch = batch.once("by trajectory", None, lambda: _of_batch(batch))
    if among.all():
        return batch.once("in all", None, lambda: sums(of_batch, among))
    return sums(of_batch, among)


def records(columns: Columns) -> list[dict[str, Any]]:
    """The rows as objects of plain Python values."""
    plain = [values.tolist() if isinstance(values, np.ndarray) else values for values in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]


def _of_batch(batch: Batch) -> Columns:
    """What does not depend on the engine, read-only."""

    def sums(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        found = np.zeros(len(batch), np.int64)
        np.add.at(found, batch.trajectory, values)
        return found

    columns = {
        "turns": sums(np.ones(batch.turns, np.int64)),
        "prompt_tokens": sums(batch.prompt_tokens),
        "new_tokens": sums(batch.prompt_tokens - batch.kept_tokens),
        "output_tokens": sums(batch.output_tokens),
        "pause_s": sums(batch.pause_ns) / 1e9,
    }
    for column in columns.values():
        column.flags.writeable = False
    return columns
