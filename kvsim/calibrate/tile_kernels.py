"""How well attention tables of FlashAttention 2 follow from its tiles (:mod:`kvsim.tiles`).

The engine's tables are affine in context; ``kernels.py`` fits them. Here the kernel is fitted as it runs, so that one
sees how much of an error is the form's and how much is the measurements'. Nothing of it is kept in a calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    names = ["compute", "start_s", "floor_s"]
    if len(set(table["dim"].tolist())) > 1:  # one head size cannot tell the softmax from the products
        names.append("softmax_dims")
    nobody = np.zeros(len(table))
    chunks, decoding = Chunks(table["batch"], table["new"], table["cached"]), Decoding(nobody, nobody)
    return _fit(_Kernel(gpu, table, chunks, decoding, gpu.memory_bandwidth_byte_per_s), table, groups, names)


def mixed_by_tiles(gpu: Gpu, table: Table, groups: npt.NDArray[Any], memory: float) -> Fit:
    """A chunk beside sequences that decode: the columns of ``mixed_attention``; ``memory`` in bytes/s."""
    return _fit(_mixed(gpu, table, memory), table, groups, ["compute", "start_s", "empty_s", "floor_s"])


def errors_by_tiles(gpu: Gpu, table: Table, memory: float, values: Mapping[str, float]) -> Array:
    """log(measured / predicted) of a table that :func:`mixed_by_tiles` found ``values`` without."""
    predicted = _mixed(gpu, table, memory).seconds(values, np.arange(len(table)))
    return np.asarray(np.log(table["us"] / 1e6 / predicted))


def _mixed(gpu: Gpu, table: Table, memory: float) -> _Kernel:
    chunks = Chunks(np.ones(len(table)), table["new"], table["cached"])
    return _Kernel(gpu, table, chunks, Decoding(table["sequences"], table["context"]), memory)


@dataclass(frozen=True)
class _Kernel:
    """The steps of a table on a card."""

    gpu: Gpu
    table: Table
    chunks: Chunks
    decoding: Decoding
    memory: float

    def seconds(self, values: Mapping[str, float], rows: npt.NDArray[np.intp]) -> Array:
        """Of some rows."""
        gpu, dim = self.gpu, self.table["dim"][rows]
        shared = SHARED_BYTES.get(gpu.compute_capability, USUAL_SHARED_BYTES)
        slots, keys = gpu.sm_count * max(1, shared // BLOCK_BYTES), keys_of_round(dim)
        operations = 2 * QUERY_ROWS * keys * (2 * dim + 2 * values.get("softmax_dims", 0.0))
        blocks = Blocks(
            keys=keys,
            round_s=operations * slots / (values["compute"] * gpu.half_flop_per_s),
            start_s=values["start_s"],
            empty_s=values.get("empty_s", STARTS["empty_s"].start),
            slots=slots,
            memory=self.memory,
            cache_bytes=gpu.l2_bytes,
        )
        heads, kv_heads = self.table["heads"][rows], self.table["kv_heads"][rows]
        chunks, decoding = self.chunks.of(rows), self.decoding.of(rows)
        return np.asarray(values["floor_s"] + attention_s(blocks, chunks, decoding, heads, kv_heads, 4 * dim))


def _fit(kernel: _Kernel, table: Table, groups: npt.NDArray[Any], names: Sequence[str]) -> Fit:
    parameters = {name: STARTS.get(name, Parameter(20.0, 1e-9, 256.0)) for name in names}
    return fit(kernel.seconds, table["us"] / 1e6, groups, parameters, resamples=0)
