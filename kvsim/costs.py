"""What a model costs on a device, in seconds: the terms of a step as functions of what is in it.

:class:`Costs` holds no table and no integer; ``law.py`` tabulates it, ``calibrate/`` compares it with
measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log2

import numpy as np

from ._weights import DTYPE_BYTES, WeightFormat
from .architecture import Architecture, AttentionGroup, kv_element_bytes
from .terms import ACTIVATION_BYTES, LOGIT_BYTES, Array, AttentionRates, Product, Rates

SQUARES_BYTES = 8
"""What ranks sum for each token where a norm spans all heads: the squares of its query and of its key, in fp32."""

GROUPS = ("full", "window")
"""Attention that reads the whole context, and attention that reads at most a window of it."""


@dataclass(frozen=True, slots=True)
class Storage:
    """How a deployment keeps its numbers: the format of its weights ("bf16" unquantised, else as
    ``kvsim._weights`` names it), bytes of a weight, and the arithmetic that multiplies it ("dtype", "fp8",
    "int8", "fp4"); whether the format covers all products or the routed experts only; bytes of a cached
    element.
    """

    weights: str = "bf16"
    weight_bytes: float = ACTIVATION_BYTES
    compute: str = "dtype"
    experts_only: bool = False
    cache_bytes: float = ACTIVATION_BYTES

    @classmethod
    def of(cls, weights: WeightFormat | None, kv_cache_dtype: str, dtype: str = "bfloat16") -> Storage:
        """Storage of an engine's weights (None: unquantised, in ``dtype``) and of its KV cache, by vLLM's name."""
        cache_bytes = kv_element_bytes(kv_cache_dtype)
        if weights is None:
            return cls(weight_bytes=DTYPE_BYTES[dtype], cache_bytes=cache_bytes)
        only = weights.scope == "experts"
        return cls(weights.name, weights.bytes_per_weight, weights.compute, only, cache_bytes)

    @property
    def cache_format(self) -> str:
        """The cache format whose coefficients hold."""
        return "bf16" if self.cache_bytes >= ACTIVATION_BYTES else "fp8"


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of the parts of a step of one architecture on ``tensor_parallel`` ranks.

    ``fuses_norms``: all-reduces run in one kernel with the norms behind them where the device and the message allow it
    (vLLM's default from 0.17 on).
    """

    architecture: Architecture
    tensor_parallel: int
    storage: Storage
    rates: Rates
    fuses_norms: bool = True

    def step_s(self, tokens: Array) -> Array:
        """Seconds of a step with ``tokens`` (>= 1) through the layers, attention over contexts left out."""
        return np.asarray(sum(self.step_terms(tokens).values()))

    def step_terms(self, tokens: Array) -> dict[str, Array]:
        """:meth:`step_s` by part."""
        values, layers = self.rates.values, self.architecture.num_layers
        routed = self.architecture.experts(self.tensor_parallel)
        overhead = values["step_s"] + self.architecture.plain_layers * values["layer_s"]
        overhead += routed.layers * self.rates.experts_launch_s(self.product("experts")[0]) if routed else 0.0
        overhead += layers * values["quantised_s"] if self._rounds_activations() else 0.0
        overhead += (1 + log2(self.tensor_parallel)) * values["ranks_s"] if self.tensor_parallel > 1 else 0.0
        return {
            "linear": self._linear_s(tokens),
            "experts": self._experts_s(tokens),
            "elementwise": self._elementwise_s(tokens),
            "all_reduce": self._all_reduce_s(tokens),
            "overhead": np.full_like(tokens, overhead),
        }

    def sequences_s(self, sequences: Array) -> Array:
        """Seconds that a step of ``sequences`` (>= 1) adds: head, sampler, states, a sequence's own work."""
        return np.asarray(sum(self.sequence_terms(sequences).values()))

    def sequence_terms(self, sequences: Array) -> dict[str, Array]:
        """:meth:`sequences_s` by part."""
        values, tp = self.rates.values, self.tensor_parallel
        head = self.architecture.head(tp)
        _, product = self.product("gemm", quantized=False)
        logits = sequences * (head.vocabulary * tp * LOGIT_BYTES)
        gather = self.rates.all_reduce_s(sequences * (head.vocabulary * ACTIVATION_BYTES), tp)
        state = sequences * (2 * self.architecture.recurrent_state_bytes(tp))
        own = values["sequence_s"] + sum(group.layers for group in self._groups()) * values["decode_sequence_s"]
        return {
            "head": product.dense_s(sequences, head.vocabulary, head.hidden) + gather,
            "sampler": values["sampler_passes"] * self.rates.hand_on_s(logits),
            "states": self.rates.move_s(state),
            "sequences": sequences * own,
        }

    def pair_s(self, group: str) -> float:
        """Seconds of each (query, key) pair of a prefill chunk, over a group's layers."""
        rates = self.rates.attention(self.storage.cache_format)
        return float(
            sum(
                part.layers * rates.pair_s(part.query_heads, part.prefill_qk_dim + part.prefill_v_dim)
                for part in self._groups(group)
            )
        )

    def context_s(self, group: str) -> float:
        """Seconds of each context token that a prefill chunk reads, over a group's layers: walking a tile,
        reading the cache, and expanding latents (MLA)."""
        rates = self.rates.attention(self.storage.cache_format)
        _, product = self.product("gemm", quantized=False)
        return float(
            sum(
                part.layers
                * (
                    rates.walk_s(part.prefill_qk_dim + part.prefill_v_dim)
                    + self._token_bytes(part) / rates.decode_memory
                    + part.expand_flops_per_token / product.compute
                )
                for part in self._groups(group)
            )
        )

    def decode_s(self, group: str, sequences: Array) -> Array:
        """Seconds of each context token read while ``sequences`` (>= 1) decode, over a group's layers."""
        return self._reading_s(group, sequences, AttentionRates.decode_s)

    def mixed_s(self, group: str, sequences: Array) -> Array:
        """:meth:`decode_s` in a step that also has a chunk."""
        return self._reading_s(group, sequences, AttentionRates.mixed_s)

    def tile_keys(self) -> int:
        """Context tokens whose time a decoding sequence's tile takes to start and end beside a chunk."""
        return round(self.rates.values["mixed_tile_keys"])

    def window(self) -> int:
        """Tokens of the windowed group's window; 0 without one."""
        return max((part.window for part in self._groups("window")), default=0)

    def _reading_s(self, group: str, sequences: Array, token_s: Callable[..., Array]) -> Array:
        """A method of the rates that prices a context token, summed over a group's layers."""
        rates = self.rates.attention(self.storage.cache_format)
        total = np.zeros_like(sequences)
        for part in self._groups(group):
            dims = part.qk_dim + part.v_dim
            total += part.layers * token_s(
                rates, sequences, part.query_heads, part.kv_heads, dims, self._token_bytes(part)
            )
        return total

    def _groups(self, kind: str | None = None) -> tuple[AttentionGroup, ...]:
        groups = self.architecture.attention_groups(self.tensor_parallel)
        return groups if kind is None else tuple(part for part in groups if part.kind == kind)

    def _token_bytes(self, part: AttentionGroup) -> float:
        """Bytes that a layer of the group reads per context token."""
        return part.bytes_per_token(self.storage.cache_bytes) / part.layers

    def product(self, kernel: str, *, quantized: bool = True) -> tuple[str, Product]:
        """Format and rates of a kernel's products, "gemm" or "experts"."""
        storage = self.storage
        if not quantized or (storage.experts_only and kernel != "experts"):
            storage = Storage()
        fmt = self.rates.weight_format(kernel, storage.weights, storage.compute)
        return fmt, self.rates.product(kernel, fmt, storage.weight_bytes)

    def _rounds_activations(self) -> bool:
        """Whether dense products multiply numbers of 8 or 4 bits."""
        return self.product("gemm")[0] in ("fp8", "fp4")

    def _linear_s(self, tokens: Array) -> Array:
        total = np.zeros_like(tokens)
        for gemm in self.architecture.gemms(self.tensor_parallel):
            _, product = self.product("gemm", quantized=gemm.quantized)
            total += gemm.layers * product.dense_s(tokens, gemm.n, gemm.k, gemm.batch)
        return total

    def _experts_s(self, tokens: Array) -> Array:
        routed = self.architecture.experts(self.tensor_parallel)
        if routed is None:
            return np.zeros_like(tokens)
        _, product = self.product("experts")
        return routed.layers * product.experts_s(
            tokens, routed.count, routed.per_token, routed.hidden, routed.intermediate
        )

    def _elementwise_s(self, tokens: Array) -> Array:
        """Per layer two norms with residual (each reads and writes two vectors of the hidden size), rotary
        embedding and cache write, and the activation between up- and down-projection."""
        architecture = self.architecture
        kernels = [(2 * architecture.num_layers, 4 * architecture.hidden_size)]
        for part in self._groups():
            kernels.append((part.layers, 2 * (part.query_heads * part.qk_dim + part.cached_elements)))
        for gemm in architecture.gemms(self.tensor_parallel):
            if gemm.name.endswith("gate_up"):
                kernels.append((gemm.layers, 3 * gemm.n // 2))
        total = np.zeros_like(tokens)
        for layers, elements in kernels:
            total += layers * self.rates.hand_on_s(tokens * (elements * ACTIVATION_BYTES))
        return total

    def _all_reduce_s(self, tokens: Array) -> Array:
        tp, reduces = self.tensor_parallel, self.architecture.all_reduces_per_step
        if tp == 1:
            return np.zeros_like(tokens)
        message = tokens * (self.architecture.hidden_size * ACTIVATION_BYTES)
        largest = self.rates.device.fused_reduce_bytes.get(tp, 0.0) if self.fuses_norms else 0.0
        saved = np.where(message <= largest, (reduces - 1) * self.rates.values["fused_s"], 0.0)
        norms = self.architecture.norm_all_reduces_per_step * self.rates.all_reduce_s(tokens * SQUARES_BYTES, tp)
        return np.asarray(reduces * self.rates.all_reduce_s(message, tp) - saved + norms)
