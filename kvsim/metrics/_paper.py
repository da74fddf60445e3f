"""What the paper behind PTE prints, and its formula for gamma.

"Beyond Accuracy: Unveiling Inefficiency Patterns in Tool-Integrated Reasoning", arXiv 2604.05404 v2, Tables 1 to 4.
The figures stand here as the paper used them, faults included (its KV sizes take ``d_model`` for the width of all
query heads, its Hopper and Ampere peaks are those of 2:4 sparsity); :mod:`kvsim.metrics.pte` has the reading without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvsim._layers import HeadAttention, LatentAttention
from kvsim.architecture import Architecture
from kvsim.hardware import Gpu, gpu


@dataclass(frozen=True, slots=True)
class Card:
    """A row of the hardware table: FLOP/s and bytes/s."""

    peak_flop_per_s: float
    bandwidth_byte_per_s: float

    @property
    def hoi(self) -> float:
        """The paper's hardware operational intensity: FLOP a byte."""
        return self.peak_flop_per_s / self.bandwidth_byte_per_s


@dataclass(frozen=True, slots=True)
class Decoder:
    """A row of the model table. ``width`` is d_model, or d_latent + d_rope for MLA; ``query_heads_per_kv`` is
    H_q / H_kv, 1 for MLA."""

    active_parameters: float
    layers: int
    width: int
    query_heads_per_kv: int

    @property
    def kv_width(self) -> float:
        """Cached elements per token, keys alone, of all layers."""
        return self.layers * self.width / self.query_heads_per_kv


CARDS: Mapping[str, Card] = {
    "h100-pcie": Card(1513e12, 2.0e12),
    "h200-sxm": Card(1671e12, 4.80e12),  # printed 1617; its HOI and alpha come from 1671
    "a100-80gb-pcie": Card(624e12, 1.935e12),  # printed 1.93
    "a100-80gb-sxm": Card(624e12, 1.935e12),  # the paper says A100 and no more
    "v100-sxm": Card(125e12, 0.90e12),
    "rtx-4090": Card(330e12, 1.008e12),  # printed 1.00; its HOI and alpha come from 1.008
}
"""The paper's cards by kvsim's ids."""

DECODERS: Mapping[str, Decoder] = {
    "Qwen/Qwen2.5-7B-Instruct": Decoder(6.53e9, 28, 3584, 7),
    "Qwen/Qwen2.5-32B-Instruct": Decoder(31.0e9, 64, 5120, 5),  # printed 2; its gamma comes from 5
    "Qwen/Qwen2.5-72B-Instruct": Decoder(70.0e9, 80, 8192, 8),
    "Qwen/Qwen3-32B": Decoder(31.2e9, 64, 5120, 8),
    "meta-llama/Llama-3.1-8B-Instruct": Decoder(8.0e9, 32, 4096, 4),
    "meta-llama/Llama-3.1-70B-Instruct": Decoder(70.6e9, 80, 8192, 8),
    "Qwen/Qwen3-30B-A3B": Decoder(3.3e9, 48, 2048, 8),
    "Qwen/Qwen3-235B-A22B": Decoder(22e9, 94, 4096, 16),
    "zai-org/GLM-4.5-Air": Decoder(12e9, 46, 4096, 12),
    "zai-org/GLM-4.5": Decoder(32e9, 92, 5120, 12),
    "openai/gpt-oss-120b": Decoder(5.1e9, 36, 2880, 8),
    "deepseek-ai/DeepSeek-V3.1": Decoder(37e9, 61, 576, 1),  # its printed gamma is not the formula's
}
"""The paper's models by hub name; not all of them ship as profiles."""


def gamma(kv_width: float, hoi: float, active_parameters: float) -> float:
    """Prefill tokens that reading one context token while decoding is worth: 2 * n_layers * d_model * HOI /
    N_active, GQA in ``kv_width``.

    It is the time to read keys and values in 16 bits (4 * kv_width bytes) over that of 2 * N_active FLOPs.
    """
    return 2 * kv_width * hoi / active_parameters


def hoi_of(card: Gpu) -> float:
    """The printed HOI of a shipped card that the paper has, else that of the datasheet's dense 16-bit peak."""
    if card.id in CARDS and card == gpu(card.id):
        return CARDS[card.id].hoi
    return card.half_flop_per_s / card.memory_bandwidth_byte_per_s


def decoder_of(model: str) -> Decoder | None:
    """The paper's row by hub name, with or without the organisation; None for other models."""
    asked = model.lower()
    for name, row in DECODERS.items():
        if asked in (name.lower(), name.lower().partition("/")[2]):
            return row
    return None


def kv_width_of(architecture: Architecture) -> float:
    """The paper's KV width from a profile: per layer hidden_size * H_kv / H_q, or d_latent + d_rope for MLA, or 0
    for linear attention; windows and sparse attention count as if they read everything."""
    total = 0.0
    for layers in architecture.layers:
        attention = layers.attention
        if isinstance(attention, HeadAttention):
            total += layers.count * architecture.hidden_size * attention.kv_heads / attention.query_heads
        elif isinstance(attention, LatentAttention):
            total += layers.count * (attention.kv_rank + attention.rope_dim)
    return total
