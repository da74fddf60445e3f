"""Serving points as their benchmarks made them: clients in a closed loop on the simulated engine.

A benchmark keeps N requests in flight until ten times as many are done, so that the first wave's prefills meet, later
ones interrupt decoding, and the last ones run beside fewer; where the KV cache holds fewer than N, requests queue.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..architecture import Architecture
from ..calibration import Calibration
from ..engine import EngineConfig
from ..errors import KvsimError
from ..hardware import Gpu
from ..simulation import simulate
from ..trajectory import Batch
from .measurements import Table
from .serving import loads

WAVES = 10
"""Requests of a run for each client, as InferenceX and vLLM's own sweeps have it."""

SPREAD = {"aiconfigurator_silicon": 1 / 9}
"""By source, how far lengths stray from their mean: InferenceX draws them evenly from 0.8 to 1.0 of the nominal."""

CHUNK_TOKENS = 8192
"""max_num_batched_tokens where recipes state it, and vLLM's default of these versions on such GPUs."""


class ClosedLoop(NamedTuple):
    """Seconds as the client's mean over requests: to the first token, and between tokens; and how long requests
    waited for their first step."""

    ttft_s: float
    tpot_s: float
    queue_s: float


class Deployment(NamedTuple):
    """What serves a point."""

    architecture: Architecture
    gpu: Gpu
    quantization: str
    cache: str
    tensor_parallel: int


def closed_loop(
    deployment: Deployment, calibration: Calibration, *, clients: int, prompt: float, output: float, spread: float
) -> ClosedLoop | None:
    """What so many clients see; None where the engine cannot be simulated with the model."""
    batch = _requests(clients, round(prompt), round(output), spread)
    engine = EngineConfig(
        tensor_parallel_size=deployment.tensor_parallel,
        quantization=deployment.quantization,
        kv_cache_dtype="fp8" if deployment.cache == "fp8" else "auto",
        max_num_batched_tokens=CHUNK_TOKENS,
        max_num_seqs=max(clients, 8),
        max_model_len=int((batch.prompt_tokens + batch.output_tokens).max()) + 1,
        enable_prefix_caching=False,
    )
    try:
        run = simulate(
            batch,
            model=deployment.architecture,
            gpu=deployment.gpu,
            engine=engine,
            arrivals=f"closed:{clients}",
            calibration=calibration,
        )
    except KvsimError:
        return None
    turns = run.turns
    between = turns.decode_s / np.maximum(batch.output_tokens - 1, 1)
    return ClosedLoop(float(turns.ttft_s.mean()), float(between.mean()), float(turns.queue_s.mean()))


CLOSED = ("aiconfigurator_silicon", "cloudrift")
"""Sources whose points are such runs."""


def closed_loops(table: Table, gpu: Gpu, calibration: Calibration) -> list[ClosedLoop | None]:
    """What the clients of each of a serving table's points see; None where the point is of another kind."""
    found: list[ClosedLoop | None] = [None] * len(table)
    apart = unfused(calibration)
    for load in loads(table):
        deployment = Deployment(load.architecture, gpu, load.quantization, load.cache, load.tensor_parallel)
        for row in load.rows.tolist():
            source, clients = str(table["source"][row]), float(table["concurrency"][row])
            if source in CLOSED and table["measure"][row] == "tpot" and clients == int(clients):
                found[row] = closed_loop(
                    deployment,
                    calibration if load.fused else apart,
                    clients=int(clients),
                    prompt=float(table["prompt_tokens"][row]),
                    output=float(table["output_tokens"][row]),
                    spread=SPREAD.get(source, 0.0),
                )
    return found


def unfused(calibration: Calibration) -> Calibration:
    """The calibration of an engine that runs all-reduces and norms in kernels of their own."""
    nothing = replace(calibration.overheads[calibration.engine]["fused_s"], value=0.0, low=0.0, high=0.0)
    overheads = {name: {**table, "fused_s": nothing} for name, table in calibration.overheads.items()}
    return replace(calibration, overheads=overheads)


@lru_cache(maxsize=64)
def _requests(clients: int, prompt: int, output: int, spread: float) -> Batch:
    random, number = np.random.default_rng(clients), clients * WAVES

    def lengths(mean: int) -> npt.NDArray[np.int64]:
        return np.maximum(np.rint(mean * random.uniform(1 - spread, 1 + spread, number)), 1).astype(np.int64)

    zero, none = np.zeros(number, np.int64), np.full(number, -1, np.int64)
    return Batch.from_columns(
        parent=none,
        kept_tokens=zero,
        prompt_tokens=lengths(prompt),
        output_tokens=lengths(output),
        pause_ns=zero,
        arrival_ns=zero,
        trajectory=np.arange(number),
    )
