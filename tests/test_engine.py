"""Engine arguments, their defaults, and KV capacity against what real vLLM servers logged."""

from __future__ import annotations

import csv
import math
import re
import statistics
from pathlib import Path
from typing import Any, Literal

import pytest

from kvsim.architecture import Architecture, models
from kvsim.engine import Engine, EngineConfig, resolve
from kvsim.errors import DoesNotFitError, InputError
from kvsim.hardware import gpu, gpus

LOGGED = list(csv.DictReader((Path(__file__).parent / "data" / "kv_capacity.csv").read_text().splitlines()))


def engine(model: str, card: str, **arguments: Any) -> Engine:
    return resolve(EngineConfig(**arguments), Architecture.load(model), gpu(card))


def replay(row: dict[str, str]) -> Engine:
    """The engine of a logged run."""
    names = ("max_num_batched_tokens", "max_num_seqs", "max_model_len", "block_size", "tensor_parallel_size")
    integers: dict[str, Any] = {name: int(row[name]) for name in names if row[name]}
    config = EngineConfig(
        gpu_memory_utilization=float(row["gpu_memory_utilization"]),
        quantization=row["quantization"] or None,
        **integers,
    )
    sampler: Literal["sort", "flashinfer"] = "sort" if row["sampler"] == "sort" else "flashinfer"
    return resolve(config, Architecture.load(row["model"]), gpu(row["gpu"]), sampler=sampler)


def relative_error(row: dict[str, str]) -> float:
    found = replay(row)
    if row["kv_cache_tokens"]:
        return found.kv_capacity_tokens / float(row["kv_cache_tokens"]) - 1
    return found.kv_bytes / 2**30 / float(row["kv_cache_gib"]) - 1


@pytest.mark.parametrize("row", LOGGED, ids=lambda row: f"{row['role']}-{row['model']}-{row['gpu']}")
def test_kv_capacity_is_what_vllm_logged(row: dict[str, str]) -> None:
    """Within 5 % of every logged run, those the memory model was not built on included.

    One of them is the known point, Llama-3.1-8B on an RTX 4090 with 41,408 tokens, compared at the
    utilisation of 0.9 that its metadata states, vLLM 0.19's default, and not at vLLM 0.32's 0.92.
    """
    assert abs(relative_error(row)) < 0.05


def test_errors_of_unseen_runs_are_small_and_balanced() -> None:
    errors = [relative_error(row) for row in LOGGED if row["role"] == "check"]
    assert len(errors) >= 8
    assert statistics.median(map(abs, errors)) < 0.02
    assert abs(statistics.mean(errors)) < 0.02


@pytest.mark.parametrize(
    ("card", "tokens", "seqs"),
    [
        ("rtx-4090", 2048, 256),
        ("a100-80gb-sxm", 2048, 256),
        ("a100-80gb-pcie", 2048, 256),
        ("l40s", 2048, 256),
        ("h100-sxm", 8192, 1024),
        ("rtx-pro-6000", 8192, 1024),
        ("h200-sxm", 8192, 1024),
        ("b200-sxm", 16384, 1024),
        ("mi300x", 16384, 1024),
    ],
)
def test_batch_defaults_of_the_server(card: str, tokens: int, seqs: int) -> None:
    found = engine("Llama-3.1-8B", card)
    assert (found.max_num_batched_tokens, found.max_num_seqs) == (tokens, seqs)


def test_defaults_are_vllms() -> None:
    config = EngineConfig()
    assert config.gpu_memory_utilization == 0.92
    assert config.block_size == 16
    found = engine("Llama-3.1-8B", "h100-sxm")
    assert found.max_model_len == 131072
    assert (found.dtype, found.kv_cache_dtype, found.weights, found.compute) == (
        "bfloat16",
        "bfloat16",
        None,
        "dtype",
    )
    assert found.kv_bytes_per_block == 16 * 131072
    assert found.num_gpu_blocks == found.kv_bytes // found.kv_bytes_per_block


def test_without_chunked_prefill_a_step_holds_a_whole_prompt() -> None:
    assert engine("Qwen3-8B", "h100-sxm", enable_chunked_prefill=False).max_num_batched_tokens == 40960


def test_memory_adds_up() -> None:
    memory = engine("Llama-3.1-8B", "rtx-4090").memory
    assert memory.requested_bytes == int(memory.device_bytes * 0.92)
    assert memory.requested_bytes == (
        memory.weight_bytes + memory.activation_bytes + memory.outside_torch_bytes + memory.kv_bytes
    )


def test_fp8_halves_the_cache_and_the_weights() -> None:
    plain = engine("Llama-3.1-8B", "h100-sxm")
    cache = engine("Llama-3.1-8B", "h100-sxm", kv_cache_dtype="fp8")
    weights = engine("Llama-3.1-8B", "h100-sxm", quantization="fp8")
    assert cache.num_gpu_blocks // 2 == plain.num_gpu_blocks
    assert weights.memory.weight_bytes < 0.6 * plain.memory.weight_bytes
    assert weights.compute == "fp8"
    assert engine("Llama-3.1-8B", "a100", quantization="fp8").compute == "dtype"  # no fp8 units: unpacked


def test_sparse_latent_attention_has_its_own_cache_format() -> None:
    found = engine("DeepSeek-V3.2", "h200-sxm", tensor_parallel_size=8)
    assert found.kv_cache_dtype == "fp8_ds_mla"
    assert found.kv_bytes_per_block == 16 * 61 * (656 + 132)


def test_cards_without_bfloat16() -> None:
    assert engine("Qwen2.5-3B", "t4").dtype == "float16"
    with pytest.raises(InputError, match="t4 has no bfloat16"):
        engine("Qwen2.5-3B", "t4", dtype="bfloat16")


def test_overrides() -> None:
    assert engine("Llama-3.1-8B", "h100-sxm", num_gpu_blocks_override=100).kv_capacity_tokens == 1600
    assert engine("Llama-3.1-8B", "h100-sxm", kv_cache_memory_bytes=2**30).num_gpu_blocks == 512


def test_a_cache_of_less_than_two_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="less than two blocks") as caught:
        engine("Llama-3.1-8B", "h100-sxm", kv_cache_memory_bytes=2**20)
    assert caught.value.field == "kv_cache_memory_bytes"


def test_a_context_above_the_capacity_is_no_error() -> None:
    found = engine("Llama-3.1-8B", "rtx-4090")
    assert found.max_model_len == 131072 > found.kv_capacity_tokens


def test_windows_stretch_the_capacity() -> None:
    """A sequence is counted as vLLM counts it: its windows, the tokens of two steps under way, and a block more."""
    mistral = engine("Mistral-7B-v0.1", "rtx-4090")
    assert mistral.windows == (4096,)
    assert mistral.num_gpu_blocks == mistral.kv_bytes // (16 * 131072)
    assert mistral.kv_capacity_tokens == mistral.num_gpu_blocks * 32768 // (512 + 1) // 16 * 16
    one_step = engine("Mistral-7B-v0.1", "rtx-4090", async_scheduling=False)
    assert one_step.kv_capacity_tokens == one_step.num_gpu_blocks * 32768 // (384 + 1) // 16 * 16
    gemma = engine("gemma-3-27b", "h100-sxm")
    assert gemma.windows == (1024,) * 6 + (0,)
    assert gemma.num_gpu_blocks == gemma.kv_bytes // (16 * 10 * 8192)  # blocks hold ten of the 62 layers
    assert gemma.kv_capacity_tokens == gemma.num_gpu_blocks * 131072 // (8192 + 6 * (1088 + 1)) // 16 * 16


def test_states_stretch_the_capacity() -> None:
    qwen = engine("Qwen3.5-35B-A3B", "h100-sxm")
    assert qwen.windows == ()
    assert qwen.num_gpu_blocks == qwen.capacity_blocks == qwen.kv_bytes // qwen.kv_bytes_per_block


def test_chunked_layers_keep_everything() -> None:
    """vLLM's hybrid cache manager is off for chunked attention unless asked for."""
    scout = engine("Llama-4-Scout", "h200-sxm", tensor_parallel_size=8)
    assert scout.windows == (0,)
    assert scout.kv_bytes_per_block == 16 * Architecture.load("Llama-4-Scout").kv_bytes_per_token(tp=8)


@pytest.mark.parametrize(
    ("model", "card", "remedy"),
    [
        ("Llama-3.1-70B", "h100-sxm", "tensor_parallel_size=2 would fit"),
        ("Llama-3.1-8B", "t4", "tensor_parallel_size=2 would fit"),
        ("Qwen2.5-7B", "t4", "tensor_parallel_size=2 would fit"),
        ("deepseek-ai/DeepSeek-V3", "h100-sxm", "tensor_parallel_size=16 would fit"),
        ("Kimi-K2", "t4", "No tensor_parallel_size up to 16"),
    ],
)
def test_a_model_that_does_not_fit_says_by_how_much_and_what_would(model: str, card: str, remedy: str) -> None:
    with pytest.raises(DoesNotFitError, match=remedy) as caught:
        engine(model, card)
    (short,) = re.findall(r"([\d.]+) GiB short", str(caught.value))
    assert float(short) > 0
    proposed = re.findall(r"tensor_parallel_size=(\d+)", str(caught.value))
    if proposed:
        tp = int(proposed[0])
        assert engine(model, card, tensor_parallel_size=tp).num_gpu_blocks >= 2
        with pytest.raises((DoesNotFitError, InputError)):
            engine(model, card, tensor_parallel_size=tp // 2)


@pytest.mark.parametrize("card", gpus())
def test_every_model_is_placed_or_refused_on_every_card(card: str) -> None:
    for model in models():
        try:
            found = engine(model, card, tensor_parallel_size=8)
        except (DoesNotFitError, InputError):
            continue
        assert 2 <= found.num_gpu_blocks < 10_000_000
        assert found.kv_bytes < found.memory.device_bytes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tensor_parallel_size", 0),
        ("tensor_parallel_size", 1.0),
        ("tensor_parallel_size", True),
        ("block_size", 0),
        ("num_gpu_blocks_override", 1),
        ("gpu_memory_utilization", 0),
        ("gpu_memory_utilization", 1.5),
        ("gpu_memory_utilization", math.nan),
        ("gpu_memory_utilization", "0.9"),
        ("watermark", -0.1),
        ("max_model_len", 0),
        ("max_num_seqs", -1),
        ("max_num_batched_tokens", 2.5),
        ("kv_cache_memory_bytes", 0),
        ("long_prefill_token_threshold", -1),
        ("enable_prefix_caching", 1),
        ("scheduling_policy", "lifo"),
        ("dtype", "int8"),
        ("dtype", None),
        ("kv_cache_dtype", "int3"),
        ("quantization", 4),
    ],
)
def test_wrong_arguments_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        EngineConfig(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.remedy


def test_tensor_parallel_must_divide_the_heads() -> None:
    with pytest.raises(InputError, match="28 attention heads"):
        engine("Qwen2.5-7B", "h100-sxm", tensor_parallel_size=8)


def test_configs_are_keys() -> None:
    assert len({EngineConfig(), EngineConfig(), EngineConfig(block_size=32)}) == 2
    assert hash(engine("Llama-3.1-8B", "h100-sxm")) == hash(engine("Llama-3.1-8B", "h100-sxm"))
