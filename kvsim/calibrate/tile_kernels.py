"""How well attention tables of FlashAttention 2 follow from its tiles (:mod:`kvsim.tiles`).

The engine's tables are affine in context; ``kernels.py`` fits them. Here the kernel is fitted as it runs, so that one
sees how much of an error is the form's and how much is the measurements'. Nothing of it is kept in a calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..hardware import Gpu
from ..tiles import QUERY_ROWS, Blocks, Chunks, Decoding, attention_s, keys_of_round
from .measurements import Table
from .relatives import TILES_OF_THEIR_OWN
from .robust import Array, Fit, Parameter, fit

BLOCK_BYTES = 80 * 2**10
"""Shared memory of a block of 64 query rows and 128 keys of 128 dimensions."""

SHARED_BYTES: Mapping[str, int] = {"7.0": 96 * 2**10, "8.0": 164 * 2**10}
"""Shared memory of a multiprocessor by compute capability, where it is not that of other cards (CUDA C++ Programming
Guide, technical specifications)."""

USUAL_SHARED_BYTES = 100 * 2**10

STARTS: Mapping[str, Parameter] = {
    "compute": Parameter(0.7, 0.01, 1.5),
    "start_s": Parameter(1.5e-6, 1e-8, 1e-4),
    "empty_s": Parameter(3.5e-7, 1e-9, 1e-5),
    "floor_s": Parameter(5e-6, 1e-9, 2e-4),
}


def has_tiles(gpu: Gpu) -> bool:
    """Whether FlashAttention 2 serves chunks on this card."""
    return not gpu.is_processor and not gpu.compute_capability.startswith(TILES_OF_THEIR_OWN)


def prefill_by_tiles(gpu: Gpu, table: Table, groups: npt.NDArray[Any]) -> Fit:
    """Chunks alone: the columns of ``prefill_attention``, over a 16-bit cache."""
    nobody = np.zeros(len(table))
    names = ["compute", "start_s", "floor_s"]
    if len(set(table["dim"].tolist())) > 1:  # one head size cannot tell the softmax from the products
        names.append("softmax_dims")
    chunks = (table["batch"], table["new"], table["cached"])
    return _fit(gpu, table, groups, names, chunks, (nobody, nobody), gpu.memory_bandwidth_byte_per_s)


def mixed_by_tiles(gpu: Gpu, table: Table, groups: npt.NDArray[Any], memory: float) -> Fit:
    """A chunk beside sequences that decode: the columns of ``mixed_attention``; ``memory`` in bytes/s."""
    names = ["compute", "start_s", "empty_s", "floor_s"]
    chunks = (np.ones(len(table)), table["new"], table["cached"])
    return _fit(gpu, table, groups, names, chunks, (table["sequences"], table["context"]), memory)


def _fit(
    gpu: Gpu,
    table: Table,
    groups: npt.NDArray[Any],
    names: list[str],
    chunks: tuple[Array, Array, Array],
    decoding: tuple[Array, Array],
    memory: float,
) -> Fit:
    heads, kv_heads, dim = table["heads"], table["kv_heads"], table["dim"]
    keys = keys_of_round(dim)
    slots = gpu.sm_count * max(1, SHARED_BYTES.get(gpu.compute_capability, USUAL_SHARED_BYTES) // BLOCK_BYTES)

    def model(values: Mapping[str, float], rows: npt.NDArray[np.intp]) -> Array:
        operations = 2 * QUERY_ROWS * keys[rows] * (2 * dim[rows] + 2 * values.get("softmax_dims", 0.0))
        blocks = Blocks(
            keys=keys[rows],
            round_s=operations * slots / (values["compute"] * gpu.half_flop_per_s),
            start_s=values["start_s"],
            empty_s=values.get("empty_s", STARTS["empty_s"].start),
            slots=slots,
            memory=memory,
            cache_bytes=gpu.l2_bytes,
        )
        chunk, beside = Chunks(*(part[rows] for part in chunks)), Decoding(*(part[rows] for part in decoding))
        own_s = attention_s(blocks, chunk, beside, heads[rows], kv_heads[rows], 4 * dim[rows])
        return np.asarray(values["floor_s"] + own_s)

    parameters = {name: STARTS.get(name, Parameter(20.0, 1e-9, 256.0)) for name in names}
    return fit(model, table["us"] / 1e6, groups, parameters, resamples=0)
