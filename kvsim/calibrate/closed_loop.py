"""Serving points as their benchmarks made them: clients in a closed loop on the simulated engine.

A benchmark keeps N requests in flight until ten times as many are done, so that the first wave's prefills meet, later
ones interrupt decoding, and the last ones run beside fewer; where the KV cache holds fewer than N, requests queue.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..engine import EngineConfig
from ..errors import KvsimError
from ..hardware import Gpu
from .deployment import Deployment
from .measurements import Table
from .serving import loads
from .serving_load import Means, Point, served_means

SPREAD = {"aiconfigurator_silicon": 1 / 9}
"""By source, how far lengths stray from their mean: InferenceX draws them evenly from 0.8 to 1.0 of the nominal."""

CHUNK_TOKENS = 8192
"""max_num_batched_tokens where recipes state it, and vLLM's default of these versions on such GPUs."""

FEWEST_SEQUENCES = 8
"""max_num_seqs is as many as there are clients, and at least so many."""

CLOSED = ("aiconfigurator_silicon", "cloudrift")
"""Sources whose points are such runs."""


def closed_loops(table: Table, gpu: Gpu, values: Mapping[str, float]) -> list[Means | None]:
    """What the clients of each of a serving table's points see; None where the point is of another kind, or the engine
    cannot be simulated with the model."""
    found: list[Means | None] = [None] * len(table)
    for load in loads(table):
        own = values if load.fused else {**values, "fused_s": 0.0}
        for row in load.rows.tolist():
            source, clients = str(table["source"][row]), float(table["concurrency"][row])
            if source not in CLOSED or table["measure"][row] != "tpot" or clients != int(clients):
                continue
            point = Point(
                place=f"{source}, row {row}",
                prompt_tokens=round(float(table["prompt_tokens"][row])),
                output_tokens=round(float(table["output_tokens"][row])),
                concurrency=int(clients),
                spread=SPREAD.get(source, 0.0),
            )
            config = EngineConfig(
                tensor_parallel_size=load.tensor_parallel,
                quantization=load.quantization,
                kv_cache_dtype="fp8" if load.cache == "fp8" else "auto",
                max_num_batched_tokens=CHUNK_TOKENS,
                max_num_seqs=max(int(clients), FEWEST_SEQUENCES),
                max_model_len=point.longest_tokens,
                enable_prefix_caching=False,
            )
            try:
                found[row] = served_means(point, Deployment.of(load.architecture, gpu, config), own)
            except KvsimError:
                continue
    return found
