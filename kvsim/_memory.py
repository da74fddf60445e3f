"""Where a GPU's memory goes before the KV cache gets the rest, after vLLM V1's profiling run.

vLLM takes ``gpu_memory_utilization`` of what the device reports and subtracts what it measured: the
weights, what was allocated outside PyTorch while loading, and the peak of a dummy forward pass over
``max_num_batched_tokens`` followed by a dummy sampling of ``max_num_seqs`` sequences. The CUDA context
exists before its first reading and the CUDA graphs come after its last one: neither is charged (startup
logs of v0.24 to v0.31 print the sum).

Terms and their evidence:

- forward: what one layer holds at its widest moment, in the model's dtype. Hidden states and residual (2
  hidden), and the larger of: a gated MLP's input, both halves and product (hidden + 3 intermediate);
  attention's input, projections and output; routed experts' two scratch buffers, tokens x experts per token
  x max(2 intermediate, hidden) and x intermediate, and their summed output (vLLM's fused_moe); MLA's
  expansion of its prefill workspace. Log of Qwen3-235B-FP8 at tp 4 with 32 sequences: 0.76 GiB; this: 0.73.
- sampling: bytes per logit of ``max_num_seqs`` x vocabulary, beside the forward pass's hidden states. With
  PyTorch's sort (top-k and top-p): 2 for the logits in bf16, 4 in fp32, 4 + 8 sorted values and indices, 12
  the radix sort's double buffer (an out-of-memory message asks for just that) and 8 its segment ids, which
  are inferred: without them logs of v0.11 on an H100 (1024 sequences, five models) are not met, with them
  their peaks are, within 2 %. With FlashInfer's rejection sampler: 2 + 4 and 4 for the probabilities = 10.
  Which one a profiling run exercises is inferred from two logs of one card each: v0.26 on an H100 leaves
  no room for a sort, v0.31 on an A100 and v0.24 on an RTX 5090 without FlashInfer do sort. So Hopper and
  later are taken to sample with FlashInfer, the rest to sort.
- outside PyTorch: the median of what single-GPU logs print (0.02 to 0.30 GiB), and per further rank a share
  for NCCL and custom all-reduce (0.55 GiB in all at tp 2, 1.7 at tp 4 and 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvsim._layers import HeadAttention, LatentAttention, Layers, LinearAttention
from kvsim._weights import DTYPE_BYTES
from kvsim.architecture import Architecture
from kvsim.hardware import Gpu

Sampler: TypeAlias = Literal["sort", "flashinfer"]

SAMPLER_BYTES_PER_LOGIT: dict[Sampler, int] = {"sort": 2 + 4 + 4 + 8 + 8 + 12, "flashinfer": 2 + 4 + 4}

OUTSIDE_TORCH_BYTES = round(0.15 * 2**30)
OUTSIDE_TORCH_BYTES_PER_PEER = round(0.25 * 2**30)
OUTSIDE_TORCH_BYTES_OF_PEERS_MAX = round(1.5 * 2**30)

MLA_WORKSPACE_TOKENS = 64 * 1024
"""Most context tokens that vLLM's MLA backend expands at a time in a chunked prefill."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One rank's memory, in bytes. ``kv_bytes`` is what the KV cache gets; negative if nothing is left."""

    device_bytes: int
    requested_bytes: int
    weight_bytes: int
    activation_bytes: int
    outside_torch_bytes: int

    @property
    def kv_bytes(self) -> int:
        """Requested less everything else."""
        return self.requested_bytes - self.weight_bytes - self.activation_bytes - self.outside_torch_bytes


def plan(
    architecture: Architecture,
    gpu: Gpu,
    *,
    utilization: float,
    tp: int,
    dtype: str,
    quantization: str | None,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    sampler: Sampler | None = None,
) -> Memory:
    """One rank's memory plan; ``sampler`` None is the GPU's own (see the module)."""
    peers = min((tp - 1) * OUTSIDE_TORCH_BYTES_PER_PEER, OUTSIDE_TORCH_BYTES_OF_PEERS_MAX)
    return Memory(
        device_bytes=gpu.device_memory_bytes,
        requested_bytes=int(gpu.device_memory_bytes * utilization),
        weight_bytes=architecture.weight_bytes(quantization, dtype, tp) + architecture.absorbed_bytes(dtype, tp),
        activation_bytes=activation_bytes(
            architecture,
            tp=tp,
            dtype=dtype,
            tokens=max_num_batched_tokens,
            sequences=max_num_seqs,
            sampler=sampler or default_sampler(gpu),
        ),
        outside_torch_bytes=OUTSIDE_TORCH_BYTES + peers,
    )


def default_sampler(gpu: Gpu) -> Sampler:
    """The sampler that vLLM's profiling run exercises on a GPU."""
    major = gpu.compute_capability.partition(".")[0]
    return "flashinfer" if major.isdigit() and int(major) >= 9 else "sort"


def activation_bytes(
    architecture: Architecture, *, tp: int, dtype: str, tokens: int, sequences: int, sampler: Sampler
) -> int:
    """Peak of the profiling run on one rank: of the forward pass or of the sampling after it."""
    element = DTYPE_BYTES[dtype]
    hidden = tokens * architecture.hidden_size * element
    context = min(MLA_WORKSPACE_TOKENS, 8 * architecture.max_model_len)
    forward = max(_layer_bytes(layers, tp, tokens, context, element) for layers in architecture.layers)
    # Every rank gathers the whole vocabulary before it samples.
    sampling = sequences * architecture.head().vocabulary * SAMPLER_BYTES_PER_LOGIT[sampler]
    return max(2 * hidden + forward, hidden + sampling)


def _layer_bytes(layers: Layers, tp: int, tokens: int, context: int, element: int) -> int:
    """Widest moment of a layer besides hidden states and residual; MLA expands ``context`` tokens at once."""
    attention, mlp = layers.attention, layers.mlp
    hidden = mlp.hidden
    widths = [hidden + 3 * -(-max(mlp.dense, mlp.shared) // tp)]
    if isinstance(attention, (HeadAttention, LinearAttention)):
        widths.append(sum(gemm.n for gemm in attention.gemms(tp)))
    routed = mlp.routed(tp)
    if routed:
        scratch = max(2 * routed.intermediate, hidden) + routed.intermediate
        widths.append(routed.per_token * scratch + hidden)
    widest = tokens * max(widths) * element
    if isinstance(attention, LatentAttention) and attention.indexer is None:
        expanded = attention.query_heads // tp * (attention.nope_dim + attention.v_dim)
        widest = max(widest, context * expanded * element)
    return widest
