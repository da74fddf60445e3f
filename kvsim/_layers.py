"""What one decoder layer is made of: its matrix products, its attention, its caches.

Everything is counted for one tensor-parallel rank, the way vLLM shards it: columns of the first and rows of
the second product of a pair are split, key/value heads are split and, once ``tp`` exceeds them, replicated;
routers, MLA's down-projections, MLA's latent cache and the sparse indexer are whole on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

INDEXER_BYTES_PER_KEY = 132
"""Bytes of one key of the DeepSeek-V3.2 indexer in vLLM: 128 fp8 values and one fp32 scale."""

PLAIN_KERNELS = 10
"""Kernels that vLLM launches in a plain layer of one rank: norm, qkv, rotary embedding, cache write, attention, o; then
norm, gate and up, activation, down. (Residuals are added inside the norms.)"""

RECURRENT_STATE_BYTES = 4
"""Bytes of a delta-rule state element: Qwen3.5 configs ask for float32 (``mamba_ssm_dtype``)."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """One dense product per token: ``batch`` matrices, ``n`` outputs x ``k`` inputs, in each of ``layers``.

    ``quantized`` says whether a weight-quantised checkpoint stores this matrix quantised (routers are not).
    """

    name: str
    layers: int
    n: int
    k: int
    batch: int = 1
    quantized: bool = True

    @property
    def weights(self) -> int:
        """Elements of all its matrices on this rank."""
        return self.layers * self.batch * self.n * self.k


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts: ``count`` gated MLPs in each of ``layers`` layers; a token uses ``per_token``."""

    layers: int
    count: int
    per_token: int
    hidden: int
    intermediate: int

    @property
    def weights_per_expert(self) -> int:
        """Elements of one expert's three matrices on this rank."""
        return 3 * self.hidden * self.intermediate

    @property
    def weights(self) -> int:
        """Elements of all experts of all layers on this rank."""
        return self.layers * self.count * self.weights_per_expert


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Layers that attend alike, on one rank.

    A query attends to the whole context (``window`` 0, kind "full") or to at most ``window`` tokens of it.
    ``qk_dim`` and ``v_dim`` hold where the cache is read as it is stored (decode; for MLA the absorbed form,
    in which all heads share one latent key of ``qk_dim``); ``prefill_qk_dim`` and ``prefill_v_dim`` where
    prefill differs (MLA expands latents to per-head keys and values, ``expand_flops_per_token`` for every
    token of context a chunk reads, cached ones included).
    ``cached_elements`` (in the KV dtype) and ``cached_bytes`` (in their own format) are stored per token and
    layer. ``keeps_all`` says whether tokens beyond the window stay cached: true for full, sparse and chunked groups.
    """

    kind: Literal["full", "window"]
    layers: int
    window: int
    query_heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    prefill_qk_dim: int
    prefill_v_dim: int
    cached_elements: int
    cached_bytes: int = 0
    keeps_all: bool = True
    expand_flops_per_token: int = 0

    def bytes_per_token(self, element_bytes: float) -> int:
        """Cache bytes per token over all its layers, for KV elements of ``element_bytes``."""
        return round(self.layers * (self.cached_elements * element_bytes + self.cached_bytes))


class Attention(Protocol):
    """One layer's token mixer."""

    def gemms(self, tp: int) -> tuple[Gemm, ...]:
        """Its products, each with ``layers`` = 1."""

    def groups(self, tp: int) -> tuple[AttentionGroup, ...]:
        """What it reads from the KV cache, each with ``layers`` = 1."""

    def state_bytes(self, tp: int, element_bytes: float) -> int:
        """Bytes of a state of fixed size kept per sequence."""

    def small_parameters(self) -> int:
        """Parameters outside its products: biases and convolutions (norms of heads are left out)."""

    def extra_kernels(self) -> int:
        """Kernels that it launches beyond those of plain attention."""

    def norm_all_reduces(self) -> int:
        """Sums among ranks that its own norms need."""

    def obstacle(self, tp: int) -> str:
        """What keeps it from being split over ``tp`` ranks ("28 attention heads"), empty if nothing does."""


@dataclass(frozen=True, slots=True)
class HeadAttention:
    """Multi-head, grouped-query or multi-query attention, over everything or in a window.

    ``gate`` doubles the query projection (attn_output_gate); ``shared_kv`` leaves out the value projection
    (attention_k_eq_v: the value is the key before its norm, so both are still cached). ``chunked``: the window is
    Llama 4's attention chunk, beyond which vLLM keeps the cache all the same unless told otherwise
    (VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE). ``norms``: queries and keys are normed, each head by itself
    ("head") or all together ("all"), for which the ranks sum their squares.
    """

    query_heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    window: int = 0
    gate: bool = False
    shared_kv: bool = False
    bias: bool = False
    chunked: bool = False
    norms: Literal["none", "head", "all"] = "none"

    def gemms(self, tp: int) -> tuple[Gemm, ...]:
        q = self.query_heads // tp * (2 if self.gate else 1)
        kv = split_kv_heads(self.kv_heads, tp) * (1 if self.shared_kv else 2)
        out = self.query_heads // tp * self.head_dim
        return (
            Gemm("qkv", 1, (q + kv) * self.head_dim, self.hidden),
            Gemm("o", 1, self.hidden, out),
        )

    def groups(self, tp: int) -> tuple[AttentionGroup, ...]:
        kv = split_kv_heads(self.kv_heads, tp)
        return (
            AttentionGroup(
                kind="window" if self.window else "full",
                layers=1,
                window=self.window,
                query_heads=self.query_heads // tp,
                kv_heads=kv,
                qk_dim=self.head_dim,
                v_dim=self.head_dim,
                prefill_qk_dim=self.head_dim,
                prefill_v_dim=self.head_dim,
                cached_elements=2 * kv * self.head_dim,
                keeps_all=self.chunked or not self.window,
            ),
        )

    def state_bytes(self, tp: int, element_bytes: float) -> int:
        return 0

    def small_parameters(self) -> int:
        return (self.query_heads + 2 * self.kv_heads) * self.head_dim if self.bias else 0

    def extra_kernels(self) -> int:
        return {"none": 0, "head": 1, "all": 2}[self.norms]

    def norm_all_reduces(self) -> int:
        return 1 if self.norms == "all" else 0

    def obstacle(self, tp: int) -> str:
        if self.query_heads % tp:
            return f"{self.query_heads} attention heads"
        if max(self.kv_heads, tp) % min(self.kv_heads, tp):
            return f"{self.kv_heads} key/value heads"
        return ""


@dataclass(frozen=True, slots=True)
class Indexer:
    """The indexer of DeepSeek sparse attention: scores every cached token and keeps ``topk`` of them."""

    heads: int
    head_dim: int
    topk: int


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434), dense or sparse (DeepSeek-V3.2).

    The up-projection of keys and values is one batched product per head whether it is absorbed into the query
    and the output (decode) or applied to the latents (prefill): same operations per new token. With an
    indexer vLLM attends in the absorbed form in prefill too, to at most ``topk`` tokens.
    """

    query_heads: int
    hidden: int
    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    indexer: Indexer | None = None

    def gemms(self, tp: int) -> tuple[Gemm, ...]:
        heads = self.query_heads // tp
        query = heads * (self.nope_dim + self.rope_dim)
        latent = self.kv_rank + self.rope_dim
        if self.q_rank:
            down = [
                Gemm("qkv_a", 1, self.q_rank + latent, self.hidden),
                Gemm("q_b", 1, query, self.q_rank),
            ]
        else:
            down = [Gemm("kv_a", 1, latent, self.hidden), Gemm("q", 1, query, self.hidden)]
        index = []
        if self.indexer:
            index = [
                Gemm("index_q", 1, self.indexer.heads * self.indexer.head_dim, self.q_rank),
                Gemm("index_k", 1, self.indexer.head_dim, self.hidden),
                Gemm("index_weights", 1, self.indexer.heads, self.hidden, quantized=False),
            ]
        return (
            *down,
            Gemm("kv_b", 1, self.nope_dim + self.v_dim, self.kv_rank, batch=heads),
            Gemm("o", 1, self.hidden, heads * self.v_dim),
            *index,
        )

    def groups(self, tp: int) -> tuple[AttentionGroup, ...]:
        heads = self.query_heads // tp
        latent = self.kv_rank + self.rope_dim
        dense = AttentionGroup(
            kind="full",
            layers=1,
            window=0,
            query_heads=heads,
            kv_heads=1,
            qk_dim=latent,
            v_dim=self.kv_rank,
            prefill_qk_dim=self.nope_dim + self.rope_dim,
            prefill_v_dim=self.v_dim,
            cached_elements=latent,
            expand_flops_per_token=2 * heads * (self.nope_dim + self.v_dim) * self.kv_rank,
        )
        if self.indexer is None:
            return (dense,)
        sparse = replace(
            dense,
            kind="window",
            window=self.indexer.topk,
            prefill_qk_dim=latent,
            prefill_v_dim=self.kv_rank,
            expand_flops_per_token=0,
        )
        index = AttentionGroup(
            kind="full",
            layers=1,
            window=0,
            query_heads=self.indexer.heads,
            kv_heads=1,
            qk_dim=self.indexer.head_dim,
            v_dim=0,
            prefill_qk_dim=self.indexer.head_dim,
            prefill_v_dim=0,
            cached_elements=0,
            cached_bytes=INDEXER_BYTES_PER_KEY * self.indexer.head_dim // 128,
        )
        return (index, sparse)

    def state_bytes(self, tp: int, element_bytes: float) -> int:
        return 0

    def small_parameters(self) -> int:
        return 0

    def extra_kernels(self) -> int:
        """Two norms, the query's up-projection, and the batched products before and after attention."""
        return 5

    def norm_all_reduces(self) -> int:
        return 0

    def obstacle(self, tp: int) -> str:
        return f"{self.query_heads} attention heads" if self.query_heads % tp else ""


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Gated delta net (Qwen3-Next, Qwen3.5): a state of fixed size per sequence instead of a KV cache."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int
    hidden: int

    def _channels(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def gemms(self, tp: int) -> tuple[Gemm, ...]:
        value = self.value_heads * self.value_dim
        return (
            Gemm("linear_qkvz", 1, (self._channels() + value) // tp, self.hidden),
            Gemm("linear_ba", 1, 2 * self.value_heads // tp, self.hidden, quantized=False),
            Gemm("linear_out", 1, self.hidden, value // tp),
        )

    def groups(self, tp: int) -> tuple[AttentionGroup, ...]:
        return ()

    def state_bytes(self, tp: int, element_bytes: float) -> int:
        recurrent = self.value_heads * self.key_dim * self.value_dim * RECURRENT_STATE_BYTES
        convolution = self._channels() * (self.conv_kernel - 1) * element_bytes
        return round((recurrent + convolution) / tp)

    def small_parameters(self) -> int:
        return self._channels() * self.conv_kernel + 2 * self.value_heads

    def extra_kernels(self) -> int:
        """A second projection, the convolution, the gates and a norm, less rotary embedding and cache write."""
        return 2

    def norm_all_reduces(self) -> int:
        return 0

    def obstacle(self, tp: int) -> str:
        return f"{self.key_heads} linear-attention heads" if self.key_heads % tp else ""


@dataclass(frozen=True, slots=True)
class Mlp:
    """A layer's feed-forward part: a gated dense MLP, routed experts with shared ones, or both side by side.

    Widths of 0 stand for what the layer does not have. ``shared`` is the summed width of the shared experts;
    ``shared_gate`` adds one output to the router (Qwen's shared_expert_gate).
    """

    hidden: int
    dense: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert: int = 0
    shared: int = 0
    shared_gate: bool = False

    def gemms(self, tp: int) -> tuple[Gemm, ...]:
        """Its products, each with ``layers`` = 1; the routed experts are apart, in :meth:`routed`."""
        products: list[Gemm] = []
        for name, width in (("", self.dense), ("shared_", self.shared)):
            if width:
                share = -(-width // tp)
                products.append(Gemm(f"{name}gate_up", 1, 2 * share, self.hidden))
                products.append(Gemm(f"{name}down", 1, self.hidden, share))
        if self.experts:
            products.append(
                Gemm("router", 1, self.experts + (1 if self.shared_gate else 0), self.hidden, quantized=False)
            )
        return tuple(products)

    def routed(self, tp: int) -> Experts | None:
        """Its routed experts, with ``layers`` = 1, sharded inside each expert (tensor parallel)."""
        if not self.experts:
            return None
        return Experts(1, self.experts, self.experts_per_token, self.hidden, -(-self.expert // tp))

    def all_reduces(self) -> int:
        """All-reduces that end it: one for the dense MLP, one for routed and shared experts together."""
        return (1 if self.dense else 0) + (1 if self.experts else 0)


@dataclass(frozen=True, slots=True)
class Layers:
    """``count`` identical decoder layers (their order does not matter to cost), of ``norms`` norms each."""

    count: int
    attention: Attention
    mlp: Mlp
    norms: int = 2

    @property
    def kernels(self) -> int:
        """Kernels that one of them launches, its routed experts counted like a dense MLP."""
        return PLAIN_KERNELS + self.norms - 2 + self.attention.extra_kernels()


def split_kv_heads(kv_heads: int, tp: int) -> int:
    """Key/value heads on one of ``tp`` ranks: split while there are enough, then replicated."""
    return max(1, kv_heads // tp)
