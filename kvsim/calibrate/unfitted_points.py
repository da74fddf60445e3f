"""Serving points that no fit takes, beside what the shipped calibrations predict: of cards that have too few, and loads
whose sequences may not all have run at once.

Each is the load that its benchmark made, simulated, queue and all; models that the engine cannot be simulated with are
priced beside as many sequences as there were clients. The interval is the calibration's own (:mod:`kvsim.uncertainty`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._inheritance import calibration_of
from .._markdown import markdown_table
from ..architecture import Architecture
from ..engine import EngineConfig
from ..errors import InputError
from ..estimation import estimate
from ..hardware import gpu as find_gpu
from ..load import Load
from ..simulation import simulate
from ..trajectory import Batch
from .deployment import Deployment
from .serving_load import ROUNDS_OF_A_POINT, Point, load_of

COLUMNS = (
    "gpu",
    "source",
    "engine",
    "model",
    "quantization",
    "cache",
    "tensor_parallel",
    "prompt_tokens",
    "output_tokens",
    "concurrency",
    "request_rate",
    "requests",
    "max_model_len",
    "max_num_seqs",
    "num_gpu_blocks",
    "statistic",
    "ttft_s",
    "tpot_s",
    "e2e_s",
)
"""Empty: not known. ``statistic``: whether times are means or medians over requests."""

MEMORY_SHARE = 0.9
"""gpu_memory_utilization of vLLM until 0.19, which all of these points are of."""

SPREAD = {"misc_excerpts": 0.5, "philschmid_a10g": 0.3, "mooncake_vllm_a10": 0.1}
"""By source, how far prompts and answers stray from their means; others' are of one length."""

ARGUMENTS = {
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "num_gpu_blocks_override": "num_gpu_blocks",
}
"""Engine arguments by the columns that hold them."""

TIMES = {"ttft_s": "first token", "tpot_s": "between tokens", "e2e_s": "whole request"}


@dataclass(frozen=True)
class UnfittedPoint:
    """A measured time of a serving point and where 90 % of such times are predicted to be, in seconds."""

    row: Mapping[str, str]
    time: str
    measured_s: float
    predicted_s: float
    low_s: float
    high_s: float
    queued: bool

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1

    @property
    def within(self) -> bool:
        """Whether the interval holds the measured time."""
        return self.low_s <= self.measured_s <= self.high_s


def unfitted_points(file: Path) -> list[UnfittedPoint]:
    """All points of a file with the columns of :data:`COLUMNS`."""
    with file.open(newline="", encoding="utf-8") as text:
        return [found for row in csv.DictReader(text) for found in _predicted(row)]


def _predicted(row: Mapping[str, str]) -> Iterator[UnfittedPoint]:
    """A row's times; time to the first token holds the request's own way."""
    card, architecture = find_gpu(row["gpu"]), Architecture.load(row["model"])
    calibration = calibration_of(card)
    known: dict[str, Any] = {argument: int(row[column]) for argument, column in ARGUMENTS.items() if row[column]}
    config = EngineConfig(
        tensor_parallel_size=int(row["tensor_parallel"]),
        quantization=row["quantization"],
        kv_cache_dtype="fp8" if row["cache"] == "fp8" else "auto",
        gpu_memory_utilization=MEMORY_SHARE,
        **known,
    )
    clients = int(row["concurrency"]) if row["concurrency"] else None
    point = Point(
        place=f"{row['gpu']}, {row['source']}",
        prompt_tokens=int(row["prompt_tokens"]),
        output_tokens=int(row["output_tokens"]),
        concurrency=clients,
        request_rate=float(row["request_rate"]) if row["request_rate"] else None,
        requests=int(row["requests"]) if row["requests"] else None,
        spread=SPREAD.get(row["source"], 0.0),
    )
    about: dict[str, Any] = {"model": architecture, "gpu": card, "engine": config, "calibration": calibration}
    batch, _, _ = load_of(point, Deployment.of(architecture, card, config))
    pattern = f"closed:{clients}" if clients else f"poisson:{point.request_rate}"
    try:
        run: Any = simulate(batch, arrivals=pattern, **about)
        times = [name for name in TIMES if row[name]]
    except InputError as error:
        if error.field != "model" or clients is None or clients > ROUNDS_OF_A_POINT:
            return  # neither simulated nor known to run at once
        run, times = estimate(batch, load=Load(concurrent=clients), **about), ["tpot_s"]
    middle = np.mean if row["statistic"] == "mean" else np.median
    way_s = calibration.values()["request_s"]
    ends = [run.interval.low, run, run.interval.high]
    for name in times:
        low, predicted, high = (
            float(middle(seconds)) + (way_s if name != "tpot_s" else 0.0)
            for seconds in (_seconds(part, batch, name) for part in ends)
        )
        queued = name != "tpot_s" and float(np.mean(run.turns.queue_s)) > 0.1 * predicted
        yield UnfittedPoint(row, name, float(row[name]), predicted, min(low, predicted), max(high, predicted), queued)


def _seconds(run: Any, batch: Batch, name: str) -> np.ndarray:
    """Of each request."""
    if name == "tpot_s":
        return np.asarray(run.turns.decode_s / np.maximum(batch.output_tokens - 1, 1))
    return np.asarray(getattr(run.turns, name))


def markdown(points: list[UnfittedPoint]) -> str:
    """A line for each time, by card."""
    head = ["card", "engine", "model", "load", "time", "measured", "predicted", "90 %", "error"]
    lines = [head]
    for point in points:
        row = point.row
        what = row["model"].rpartition("/")[2]
        what += "" if row["quantization"] == "none" else f", {row['quantization']}"
        what += f", TP {row['tensor_parallel']}" if row["tensor_parallel"] != "1" else ""
        load = f"{row['concurrency']} clients" if row["concurrency"] else f"{row['request_rate']} a second"
        lines.append(
            [
                row["gpu"],
                row["engine"].partition(" ")[0],
                what,
                f"{load}, {row['prompt_tokens']} + {row['output_tokens']}",
                TIMES[point.time] + (", queued" if point.queued else ""),
                _time(point.measured_s),
                _time(point.predicted_s),
                f"{_time(point.low_s)} to {_time(point.high_s)}" + ("" if point.within else " (not in it)"),
                f"{point.error:+.0%}".replace("%", " %"),
            ]
        )
    return markdown_table(lines)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
