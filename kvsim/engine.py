"""The engine: vLLM's own arguments, what they come to on a GPU, and how many KV blocks that leaves.

Defaults are vLLM 0.32's for its OpenAI server. The memory model is in ``kvsim._memory``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, SupportsIndex

from kvsim._memory import Memory, Sampler, plan
from kvsim._once import once
from kvsim._weights import WeightFormat, dtype_name
from kvsim.architecture import Architecture, kv_element_bytes
from kvsim.errors import DoesNotFitError, InputError
from kvsim.hardware import Gpu
from kvsim.kv_groups import kv_groups

__all__ = ["Engine", "EngineConfig", "resolve"]

GIB = 2**30
TENSOR_PARALLEL_SIZES = (1, 2, 4, 8, 16)
"""The sizes proposed where a model does not fit."""


_REQUIRED = ("tensor_parallel_size", "block_size", "long_prefill_token_threshold")
_LEAST = {
    "tensor_parallel_size": 1,
    "block_size": 1,
    "long_prefill_token_threshold": 0,
    "kv_cache_memory_bytes": 1,
    "max_model_len": 1,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 1,
    "num_gpu_blocks_override": 2,  # one of them is the null block
}
"""The smallest value of each argument that is a whole number; all but the required ones may be None."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """vLLM's engine arguments, by its own names; None is its default for the GPU. Hashable.

    Raises InputError naming the field for a value of the wrong type or out of range.
    """

    tensor_parallel_size: int = 1
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    block_size: int = 16
    num_gpu_blocks_override: int | None = None
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool = True
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True

    def __post_init__(self) -> None:
        for name, minimum in _LEAST.items():
            if getattr(self, name) is not None or name in _REQUIRED:
                object.__setattr__(self, name, _integer(name, getattr(self, name), minimum=minimum))
        _check_fraction("gpu_memory_utilization", self.gpu_memory_utilization, zero=False)
        _check_fraction("watermark", self.watermark, zero=True)
        for name in (
            "enable_prefix_caching",
            "enable_chunked_prefill",
            "async_scheduling",
            "scheduler_reserve_full_isl",
        ):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{getattr(self, name)!r} is not a bool", remedy="Use True or False.", field=name)
        if self.scheduling_policy not in ("fcfs", "priority"):
            raise InputError(
                f"{self.scheduling_policy!r} is no scheduling policy",
                remedy='Use "fcfs" or "priority".',
                field="scheduling_policy",
            )
        for name in ("dtype", "kv_cache_dtype"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{getattr(self, name)!r} is no text", remedy='Use "auto".', field=name)
        if self.dtype != "auto":
            dtype_name(self.dtype)
        if self.kv_cache_dtype != "auto":
            kv_element_bytes(self.kv_cache_dtype)
        if self.quantization is not None and not isinstance(self.quantization, str):
            raise InputError(f"{self.quantization!r} is no text", remedy="Use None.", field="quantization")


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine on a GPU: every argument settled, and its memory, per tensor-parallel rank.

    num_gpu_blocks: blocks of the pool, the null block among them, so that one less is usable.
    windows: by KV group, tokens of its sliding window, 0 full attention (:mod:`kvsim.kv_groups`); empty for models
        whose groups are not described.
    capacity_blocks: blocks of ``block_size`` tokens of context that fit, the null block among them. For models with
        full attention the blocks of the pool.
    kv_capacity_tokens: capacity_blocks x block_size, the figure vLLM logs as "GPU KV cache size".
    kv_bytes_per_block: cache bytes on one rank of ``block_size`` tokens of context.
    pool_block_bytes: cache bytes on one rank of a block of the pool.
    weights: how the weights are stored, None if unquantised. compute: the arithmetic of their products;
        "dtype" also where the GPU lacks the format's own and vLLM unpacks the weights (Marlin).

    Models with sliding windows have several KV groups in vLLM, which share a pool; a context takes blocks in each.
    Their capacity in tokens, here as in vLLM's log, is that of as many sequences of max_model_len as fit, each with
    its windows and the tokens of the steps under way. Shorter sequences hold relatively more window, so fewer tokens
    fit than this says. For models with linear attention states are counted likewise.
    """

    tensor_parallel_size: int
    dtype: str
    weights: WeightFormat | None
    compute: Literal["dtype", "fp8", "int8", "fp4"]
    kv_cache_dtype: str
    block_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    enable_prefix_caching: bool
    enable_chunked_prefill: bool
    long_prefill_token_threshold: int
    scheduling_policy: Literal["fcfs", "priority"]
    async_scheduling: bool
    watermark: float
    scheduler_reserve_full_isl: bool
    memory: Memory
    kv_bytes: int
    kv_bytes_per_block: int
    pool_block_bytes: int
    num_gpu_blocks: int
    capacity_blocks: int
    windows: tuple[int, ...]

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens of context in all blocks."""
        return self.capacity_blocks * self.block_size


def resolve(config: EngineConfig, architecture: Architecture, gpu: Gpu, *, sampler: Sampler | None = None) -> Engine:
    """What an engine's arguments come to for a model on a GPU.

    ``sampler`` overrides the one whose memory the profiling run is charged with (for other versions of vLLM).
    A max_model_len above the KV capacity is no error here: turns that do not fit are marked one by one.

    Raises DoesNotFitError saying by how much, and which tensor_parallel_size would do; InputError for a dtype
    that the GPU lacks or a tensor_parallel_size that does not divide the heads.
    """
    blocks = config.num_gpu_blocks_override
    if blocks is not None:
        config = replace(config, num_gpu_blocks_override=None)
    engine, share = _but_for_blocks(config, architecture, gpu, sampler)
    if blocks is None:
        blocks = engine.kv_bytes // engine.pool_block_bytes
    if blocks < 2:
        raise InputError(
            f"{engine.kv_bytes} bytes hold less than two blocks, one of which is the null block",
            remedy=f"Give at least {2 * engine.pool_block_bytes}.",
            field="kv_cache_memory_bytes",
        )
    capacity = blocks if share is None else int(blocks / share) // engine.block_size
    return replace(engine, num_gpu_blocks=blocks, capacity_blocks=capacity)


@once(maxsize=64)
def _but_for_blocks(
    config: EngineConfig, architecture: Architecture, gpu: Gpu, sampler: Sampler | None
) -> tuple[Engine, float | None]:
    """The engine but for the number of its blocks, which is all that sizes of the cache differ in.

    And, with sliding windows, the blocks of the pool that a token of context takes.
    """
    tp = config.tensor_parallel_size
    architecture.check_tensor_parallel(tp)
    dtype = _dtype(config, architecture, gpu)
    kv_dtype = _kv_dtype(config, architecture, dtype)
    max_model_len = config.max_model_len or architecture.max_model_len
    default_tokens, default_seqs = _batch_defaults(gpu)
    if not config.enable_chunked_prefill:  # a whole prompt must fit into one step
        default_tokens = max(default_tokens, max_model_len)
    tokens = config.max_num_batched_tokens or default_tokens
    seqs = config.max_num_seqs or min(default_seqs, tokens)

    def memory_of(ranks: int) -> Memory:
        return plan(
            architecture,
            gpu,
            utilization=config.gpu_memory_utilization,
            tp=ranks,
            dtype=dtype,
            quantization=config.quantization,
            max_num_batched_tokens=tokens,
            max_num_seqs=seqs,
            sampler=sampler,
        )

    def block_bytes(ranks: int) -> int:
        found = kv_groups(architecture, kv_element_bytes(kv_dtype), ranks)
        if found:
            return found.bytes_per_token * config.block_size
        sequence = architecture.kv_bytes_of_sequence(max_model_len, kv_dtype, ranks, step_tokens=tokens)
        return math.ceil(sequence / max_model_len * config.block_size)

    def spare(ranks: int) -> int:
        return memory_of(ranks).kv_bytes - 2 * block_bytes(ranks)  # the null block and one more

    memory = memory_of(tp)
    if spare(tp) < 0 and (config.kv_cache_memory_bytes is None or memory.kv_bytes < 0):
        raise DoesNotFitError(_does_not_fit(architecture, gpu, tp, memory, -spare(tp), spare))
    groups = kv_groups(architecture, kv_element_bytes(kv_dtype), tp)
    windows = groups.windows if groups else ()
    share, context_bytes = None, block_bytes(tp)
    if groups and any(windows):
        in_flight = tokens * (2 if config.async_scheduling else 1)
        share = groups.reserved_blocks(max_model_len, config.block_size, in_flight) / max_model_len
        context_bytes = math.ceil(context_bytes * share * config.block_size)
    stored = architecture.weight_format(config.quantization)
    engine = Engine(
        tensor_parallel_size=tp,
        dtype=dtype,
        weights=stored,
        compute=_compute(stored, gpu),
        kv_cache_dtype=kv_dtype,
        block_size=config.block_size,
        max_model_len=max_model_len,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        enable_prefix_caching=config.enable_prefix_caching,
        enable_chunked_prefill=config.enable_chunked_prefill,
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        scheduling_policy=config.scheduling_policy,
        async_scheduling=config.async_scheduling,
        watermark=config.watermark,
        scheduler_reserve_full_isl=config.scheduler_reserve_full_isl,
        memory=memory,
        kv_bytes=config.kv_cache_memory_bytes or memory.kv_bytes,
        kv_bytes_per_block=context_bytes,
        pool_block_bytes=block_bytes(tp),
        num_gpu_blocks=0,
        capacity_blocks=0,
        windows=windows,
    )
    return engine, share


def _batch_defaults(gpu: Gpu) -> tuple[int, int]:
    """vLLM 0.32's max_num_batched_tokens and max_num_seqs of a server (EngineArgs.get_batch_defaults)."""
    if gpu.device_memory_bytes >= 160 * GIB:
        return 16384, 1024
    if gpu.device_memory_bytes >= 70 * GIB and "a100" not in gpu.name.lower():
        return 8192, 1024
    return 2048, 256


def _dtype(config: EngineConfig, architecture: Architecture, gpu: Gpu) -> str:
    """The dtype to compute in; bfloat16 models run in float16 on cards without bfloat16, as vLLM has it."""
    if config.dtype == "auto":
        return architecture.dtype if gpu.bf16 or architecture.dtype != "bfloat16" else "float16"
    asked = dtype_name(config.dtype)
    if asked == "bfloat16" and not gpu.bf16:
        raise InputError(f"{gpu.id} has no bfloat16", remedy='Use "float16" or "auto".', field="dtype")
    return asked


def _kv_dtype(config: EngineConfig, architecture: Architecture, dtype: str) -> str:
    """The KV cache's dtype. Sparse MLA stores its own fp8 format unless bfloat16 is asked for."""
    asked = config.kv_cache_dtype.lower()
    if architecture.index_bytes_per_token() and asked.startswith(("auto", "fp8")):
        return "fp8_ds_mla"
    return dtype if asked == "auto" else asked


def _compute(stored: WeightFormat | None, gpu: Gpu) -> Literal["dtype", "fp8", "int8", "fp4"]:
    if stored is None or (stored.compute == "fp8" and gpu.fp8_flop_per_s is None):
        return "dtype"
    if stored.compute == "fp4" and gpu.fp4_flop_per_s is None:
        return "dtype"
    return stored.compute


def _does_not_fit(
    architecture: Architecture, gpu: Gpu, tp: int, memory: Memory, missing: int, spare: Callable[[int], int]
) -> str:
    """The message of a DoesNotFitError; ``spare`` says how much room more ranks leave, negative for none."""
    workspace = memory.activation_bytes + memory.outside_torch_bytes
    problem = (
        f"{architecture.name} does not fit on {tp} x {gpu.id}: {missing / GIB:.2f} GiB short on each GPU "
        f"(weights {memory.weight_bytes / GIB:.1f} and workspace {workspace / GIB:.1f} "
        f"of {memory.requested_bytes / GIB:.1f} GiB)"
    )
    for ranks in TENSOR_PARALLEL_SIZES:
        if ranks <= tp:
            continue
        try:
            architecture.check_tensor_parallel(ranks)
        except InputError:
            continue
        if spare(ranks) >= 0:
            return f"{problem}. tensor_parallel_size={ranks} would fit."
    return f"{problem}. No tensor_parallel_size up to {TENSOR_PARALLEL_SIZES[-1]} would fit it; quantise it."


def _integer(field: str, value: object, *, minimum: int) -> int:
    """The value as Python's integer (numpy's are accepted), or InputError."""
    if type(value) is int and value >= minimum:
        return value
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < minimum:
        raise InputError(f"{value!r} is not a whole number of at least {minimum}", remedy="Correct it.", field=field)
    return operator.index(value)


def _check_fraction(field: str, value: object, *, zero: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        value = math.nan
    if not 0 <= value <= 1 or (value == 0 and not zero):  # NaN compares false
        raise InputError(f"{value!r} is not a fraction up to 1", remedy="Give 0.92, say.", field=field)
