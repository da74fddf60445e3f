"""How long one kernel takes: the physical forms of the law, in seconds, over arrays of counts.

Every form is a roofline: arithmetic and memory traffic overlap (``hypot`` is their smooth maximum). What it
takes to start and drain kernels depends on how the engine launches them (the tables time single launches,
the engine replays CUDA graphs), so it is part of the engine's overhead of a layer, not of these forms. The
same functions price a model (``law.py``) and fit the coefficients (``calibrate/``), so that what is fitted
is what is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lgamma

import numpy as np
import numpy.typing as npt

from ._layers import PLAIN_KERNELS

Array = npt.NDArray[np.float64]

ACTIVATION_BYTES = 2
"""Bytes of an activation between kernels: 16-bit floats, whatever the weights."""

LOGIT_BYTES = 4
"""vLLM samples from fp32 logits."""

ROUTING_EVENNESS = 0.75
"""How evenly routers choose among experts: the chance that a token takes one is taken to be beta-distributed over the
experts, with this first parameter (infinite: all are chosen alike). With it the time between tokens grows with the
batch as measured: points of MiniMax-M2.5 alone ask for 0.8, those of Kimi-K2.5 for 0.75 (docs/accuracy.md)."""

MONOLITHIC_KERNELS = 2
"""Kernels by which routed experts whose routing, products and sums are one operation exceed a dense MLP."""

_LGAMMA = np.frompyfunc(lgamma, 1, 1)

CACHE_SHARE, CACHE_GAIN = 0.3, 3.0
"""Kernels between products find part of what they read in the L2 cache, where the kernel before left it: of large
vectors so much of the cache's size, and small ones move so many times faster. (LLMServingSim's layers inside vLLM:
shares of 0.2 to 0.45, gains of 2.1 to 4.1 on RTX 4090 and RTX PRO 6000.)"""


@dataclass(frozen=True, slots=True)
class Device:
    """Datasheet figures of one GPU that coefficients are fractions of.

    ``peak`` maps "bf16", "fp8", "fp4" to dense operations/s (absent: no such arithmetic); ``bandwidth`` in
    bytes/s; ``multiprocessors`` counts; ``cache_bytes`` is the L2 cache that kernels hand vectors on in;
    ``overlaps``: attention reads all the while it computes (GPUs).
    ``monolithic``: formats whose routed experts vLLM runs as one operation; ``fused_reduce_bytes``: by number of ranks,
    the largest message whose all-reduce it fuses with the norm that follows.
    """

    peak: Mapping[str, float]
    bandwidth: float
    multiprocessors: int
    cache_bytes: float = 0.0
    overlaps: bool = True
    monolithic: frozenset[str] = frozenset()
    fused_reduce_bytes: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Product:
    """Rates of a matrix-product kernel: operations/s, bytes/s, bytes per weight, rows computed in vain a
    tile."""

    compute: float
    memory: float
    weight_bytes: float
    tile: float = 0.0

    def dense_s(self, tokens: Array, n: float | Array, k: float | Array, batch: float | Array = 1) -> Array:
        """Seconds of ``batch`` products of (tokens, k) with (k, n)."""
        weights = batch * n * k
        traffic = weights * self.weight_bytes + tokens * batch * (n + k) * ACTIVATION_BYTES
        return np.hypot(2 * tokens * weights / self.compute, traffic / self.memory)

    def experts_s(
        self,
        tokens: Array,
        count: float | Array,
        per_token: float | Array,
        hidden: float | Array,
        intermediate: float | Array,
        touched: Array | None = None,
    ) -> Array:
        """Seconds of one layer's fused routed experts (gate, up, down).

        ``touched``: how many experts have a token; by default as many as expected of a router. Each of them computes
        ``tile`` rows in vain.
        """
        touched = experts_touched(tokens, count, per_token) if touched is None else touched
        weights = 3 * hidden * intermediate
        rows = tokens * per_token
        traffic = touched * weights * self.weight_bytes
        traffic = traffic + rows * (2 * hidden + 3 * intermediate) * ACTIVATION_BYTES
        operations = 2 * (rows + touched * self.tile) * weights
        return np.hypot(operations / self.compute, traffic / self.memory)


def experts_touched(tokens: Array, count: float | Array, per_token: float | Array) -> Array:
    """Expected number of experts that at least one of ``tokens`` is routed to (:data:`ROUTING_EVENNESS`)."""
    share = np.minimum(per_token / np.asarray(count, np.float64), 1 - 1e-12)
    taken = ROUTING_EVENNESS
    left = taken * (1 / share - 1)
    # the mean of (1 - p)**tokens over a beta distribution of p
    missed = _lgamma(left + tokens) - _lgamma(left) + _lgamma(taken + left) - _lgamma(taken + left + tokens)
    touched: Array = count * -np.expm1(missed)
    return touched


def _lgamma(values: float | Array) -> Array:
    return np.asarray(_LGAMMA(values), np.float64)


@dataclass(frozen=True, slots=True)
class AttentionRates:
    """Rates of the attention kernels over a cache of one format."""

    prefill_compute: float
    softmax_dims: float
    tile_rows: float
    multiprocessors: int
    decode_memory: float
    decode_compute: float
    spread: float
    mixed_rows: float = 0.0
    overlaps: bool = True

    def pair_s(self, heads: float | Array, dims: float | Array) -> Array:
        """Seconds of a (query, key) pair of a chunk; ``dims`` = key plus value dimensions of a head."""
        return np.asarray(2 * heads * (dims + 2 * self.softmax_dims) / self.prefill_compute)

    def walk_s(self, dims: float | Array) -> Array:
        """Seconds by which each context token holds up a chunk: one tile of rows on one multiprocessor."""
        rows = self.tile_rows * self.multiprocessors
        return np.asarray(2 * rows * (dims + 2 * self.softmax_dims) / self.prefill_compute)

    def decode_s(
        self,
        sequences: Array,
        heads: float | Array,
        kv_heads: float | Array,
        dims: float | Array,
        token_bytes: float | Array,
    ) -> Array:
        """Seconds per context token read while ``sequences`` decode: its bytes, slower if few readers share
        the work, and its arithmetic: the longer of both where they overlap, else their smooth maximum."""
        reading = token_bytes / self.decode_memory * (1 + self.spread / (sequences * kv_heads))
        arithmetic = 2 * heads * dims / self.decode_compute
        return np.asarray(np.maximum(reading, arithmetic) if self.overlaps else np.hypot(reading, arithmetic))

    def mixed_s(
        self,
        sequences: Array,
        heads: float | Array,
        kv_heads: float | Array,
        dims: float | Array,
        token_bytes: float | Array,
    ) -> Array:
        """:meth:`decode_s` in a step that also has a chunk: kernels that serve both alike give each head of a
        decoding sequence a tile of ``mixed_rows`` query rows of which one is needed, so that arithmetic outlasts
        reading. A tile is one multiprocessor's, so that few of them take as long as one, and many as long as their
        work: the smooth maximum of both (:mod:`kvsim.tiles` has the tiles one by one). 0 rows: decoding keeps a
        kernel of its own."""
        alone = self.multiprocessors / (sequences * heads)
        tiles = self.mixed_rows * self.pair_s(heads, dims) * np.hypot(1, alone)
        return np.asarray(np.hypot(self.decode_s(sequences, heads, kv_heads, dims, token_bytes), tiles))


@dataclass(frozen=True, slots=True)
class Rates:
    """A calibration's coefficients on a device: fractions become operations/s and bytes/s.

    ``values`` holds kernel coefficients and engine overheads by the names of ``calibration.QUANTITIES`` and
    ``calibration.OVERHEADS``.
    """

    values: Mapping[str, float]
    device: Device

    def weight_format(self, kernel: str, name: str, compute: str) -> str:
        """The format whose coefficients price weights stored as ``name`` and multiplied as ``compute``.

        Weights are "packed" where they are expanded to 16 bits first: formats that compute in the model's
        dtype, and those whose arithmetic the device lacks (fp8 weights on Ampere).
        """
        if name in ("bf16", "mxfp4"):
            return name if kernel == "experts" else "bf16"
        wanted = {"fp8": "fp8", "int8": "fp8", "fp4": "fp4"}.get(compute, "packed")
        return wanted if wanted in self.device.peak else "packed"

    def product(self, kernel: str, fmt: str, weight_bytes: float) -> Product:
        """Rates of "gemm" or "experts" over weights of a format."""
        name = f"{kernel}_{fmt}"
        peak = self.device.peak.get(fmt, self.device.peak["bf16"])
        return Product(
            compute=self.values[f"{name}_compute"] * peak,
            memory=self.values[f"{name}_memory"] * self.device.bandwidth,
            weight_bytes=weight_bytes,
            tile=self.values.get(f"{name}_tile", 0.0),
        )

    def attention(self, fmt: str) -> AttentionRates:
        """Rates of attention over a "bf16" or "fp8" cache."""
        values, peak = self.values, self.device.peak["bf16"]
        reading = values["reading"]
        return AttentionRates(
            prefill_compute=values[f"prefill_{fmt}_compute"] * peak,
            softmax_dims=values["prefill_softmax_dims"],
            tile_rows=values["prefill_tile_rows"],
            multiprocessors=self.device.multiprocessors,
            decode_memory=values[f"decode_{fmt}_memory"] * self.device.bandwidth / reading,
            decode_compute=values["decode_latent_compute"] * peak / reading,
            spread=values[f"decode_{fmt}_spread"],
            mixed_rows=values["mixed_tile_rows"],
            overlaps=self.device.overlaps,
        )

    def experts_launch_s(self, fmt: str) -> float:
        """Seconds by which starting a layer's routed experts exceeds starting a dense MLP."""
        if fmt in self.device.monolithic:
            return MONOLITHIC_KERNELS / PLAIN_KERNELS * self.values["layer_s"]
        return self.values["experts_s"]

    def all_reduce_s(self, size_bytes: Array, tensor_parallel: int) -> Array:
        """Seconds to sum a message of ``size_bytes`` among the ranks, by the faster of an algorithm that starts quickly
        and one that moves large messages well; zero for one rank.

        Beyond the largest number of ranks measured its coefficients stand in.
        """
        if tensor_parallel == 1:
            return np.zeros_like(size_bytes)
        ranks = 2 if tensor_parallel <= 2 else 4 if tensor_parallel <= 4 else 8
        small, large = (
            self.values[f"all_reduce_{ranks}_{size}latency_s"]
            + size_bytes / self.values[f"all_reduce_{ranks}_{size}bytes_per_s"]
            for size in ("", "large_")
        )
        return np.minimum(small, large)

    def move_s(self, size_bytes: Array) -> Array:
        """Seconds of element-by-element kernels that move ``size_bytes`` from and to memory."""
        return size_bytes / (self.values["elementwise_memory"] * self.device.bandwidth)

    def hand_on_s(self, size_bytes: Array) -> Array:
        """Seconds of one such kernel that goes on with what the one before it wrote."""
        return self.move_s(beyond_cache(size_bytes, self.device.cache_bytes))


def beyond_cache(size_bytes: Array, cache_bytes: float) -> Array:
    """How many of ``size_bytes`` handed on from kernel to kernel go through memory, or take as long."""
    if not cache_bytes:
        return size_bytes
    return np.asarray(np.maximum(size_bytes / CACHE_GAIN, size_bytes - CACHE_SHARE * cache_bytes))
