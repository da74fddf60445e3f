"""Architectures: counts against independent figures, shapes by hand, refusals that name the remedy."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from kvsim import _profiles
from kvsim.architecture import Architecture, models
from kvsim.errors import InputError, UnknownNameError

FIGURES = {
    row["model"]: row
    for row in csv.DictReader((Path(__file__).parent / "data" / "model_figures.csv").read_text().splitlines())
}

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def load(tmp_path: Path, changes: dict[str, Any] | None = None, *, without: str | None = None) -> Architecture:
    """A local config.json: Llama 3.1 8B with changes."""
    config = {name: value for name, value in {**LLAMA, **(changes or {})}.items() if name != without}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return Architecture.load(path)


def test_the_shipped_models_are_those_with_figures() -> None:
    assert models() == sorted(FIGURES)
    assert len(models()) == 56


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_parameters_and_kv_bytes_agree_with_independent_figures(name: str) -> None:
    model, figures = Architecture.load(name), FIGURES[name]
    # The figures are rounded to 10 million: the small models are off by that, none by 1 %.
    assert model.parameters / 1e9 == pytest.approx(float(figures["parameters_1e9"]), rel=1e-3, abs=0.006)
    assert model.active_parameters / 1e9 == pytest.approx(float(figures["active_parameters_1e9"]), rel=2e-3, abs=0.006)
    assert model.kv_bytes_per_token("bfloat16") == int(figures["kv_bytes_per_token_bf16"])
    assert model.kv_bytes_per_token("fp8") * 2 == model.kv_bytes_per_token("bfloat16")
    assert model.source
    assert model.kind == ("published" if figures["sourced"] == "1" else "cross-checked")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("qwen/qwen3-8b", "Qwen/Qwen3-8B"),
        ("Qwen3-Coder-30B-A3B", "Qwen/Qwen3-Coder-30B-A3B-Instruct"),
        ("Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B"),
        ("gemma-3-27b", "google/gemma-3-27b-it"),
        ("Llama-4-Scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
    ],
)
def test_models_go_by_sensible_aliases(alias: str, name: str) -> None:
    assert Architecture.load(alias).name == name


def test_every_model_goes_by_its_bare_name() -> None:
    assert {Architecture.load(name.partition("/")[2]).name for name in models()} == set(models())


def test_an_unknown_model_is_refused_with_a_hint() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'Qwen/Qwen3-8B'"):
        Architecture.load("Qwen/Qwen3-8")


def test_gemms_of_llama_by_hand() -> None:
    assert [(g.name, g.layers, g.n, g.k) for g in Architecture.load("Llama-3.1-8B").gemms()] == [
        ("qkv", 32, (32 + 2 * 8) * 128, 4096),
        ("o", 32, 4096, 4096),
        ("gate_up", 32, 2 * 14336, 4096),
        ("down", 32, 4096, 14336),
    ]
    assert Architecture.load("Llama-3.1-8B").head().vocabulary == 128256


def test_kv_heads_split_then_replicate() -> None:
    model = Architecture.load("Qwen3-30B-A3B")  # 32 query heads, 4 key/value heads
    full = model.kv_bytes_per_token()
    assert [model.kv_bytes_per_token(tp=tp) for tp in (1, 2, 4, 8)] == [full, full // 2, full // 4, full // 4]
    assert [g.n for g in model.gemms(8) if g.name == "qkv"] == [(4 + 2) * 128]
    experts = model.experts(8)
    assert experts is not None
    assert (experts.layers, experts.count, experts.per_token, experts.intermediate) == (48, 128, 8, 768 // 8)


def splits(name: str, tp: int) -> bool:
    try:
        Architecture.load(name).check_tensor_parallel(tp)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(("name", "tp"), [(name, tp) for name in sorted(FIGURES) for tp in (2, 8) if splits(name, tp)])
def test_ranks_share_weights_without_losing_any(name: str, tp: int) -> None:
    model = Architecture.load(name)
    share, whole = model.weight_bytes("none", tp=tp), model.weight_bytes("none")
    assert whole / tp <= share < whole


def test_latent_attention_by_hand() -> None:
    model = Architecture.load("deepseek-ai/DeepSeek-V3")
    (group,) = model.attention_groups(tp=8)
    assert (group.query_heads, group.kv_heads, group.qk_dim, group.v_dim) == (16, 1, 576, 512)
    assert (group.prefill_qk_dim, group.prefill_v_dim) == (192, 128)
    assert group.expand_flops_per_token == 2 * 16 * 256 * 512
    assert group.bytes_per_token(2.0) == 61 * 576 * 2  # whole on every rank
    names = {g.name: (g.n, g.k, g.batch) for g in model.gemms(tp=8)}
    assert names["qkv_a"] == (1536 + 576, 7168, 1)
    assert names["kv_b"] == (256, 512, 16)
    assert [g.layers for g in model.gemms() if g.name == "gate_up"] == [3]
    assert {g.name for g in Architecture.load("DeepSeek-V2-Lite").gemms()} >= {"q", "kv_a"}


def test_sparse_attention_is_a_full_indexer_and_a_capped_group() -> None:
    model = Architecture.load("deepseek-ai/DeepSeek-V3.2")
    index, sparse = model.attention_groups(tp=8)
    assert (index.kind, index.query_heads, index.qk_dim, index.cached_bytes) == ("full", 64, 128, 132)
    assert (sparse.kind, sparse.window, sparse.keeps_all) == ("window", 2048, True)
    assert model.index_bytes_per_token() == 61 * 132
    assert model.kv_bytes_of_sequence(100_000) == 100_000 * (70272 + 61 * 132)


@pytest.mark.parametrize(
    ("name", "full_layers", "windowed_layers", "window"),
    [
        ("gemma-2-9b", 21, 21, 4096),
        ("gemma-3-27b", 10, 52, 1024),
        ("gpt-oss-20b", 12, 12, 128),
        ("Mistral-7B-v0.1", 0, 32, 4096),
        ("Qwen2.5-7B", 28, 0, 0),
        ("gemma-4-26B-A4B", 5, 25, 1024),
        ("Llama-4-Scout", 12, 36, 8192),
    ],
)
def test_windows(name: str, full_layers: int, windowed_layers: int, window: int) -> None:
    groups = {group.kind: group for group in Architecture.load(name).attention_groups()}
    assert (groups["full"].layers if "full" in groups else 0) == full_layers
    assert (groups["window"].layers if "window" in groups else 0) == windowed_layers
    if windowed_layers:
        assert groups["window"].window == window
        assert groups["window"].keeps_all == (name == "Llama-4-Scout")  # chunks, which vLLM keeps by default


def test_a_window_bounds_what_a_sequence_keeps() -> None:
    model = Architecture.load("gemma-3-27b")
    per_layer = model.kv_bytes_per_token() // 62
    assert model.kv_bytes_of_sequence(500) == 500 * 62 * per_layer
    assert model.kv_bytes_of_sequence(50_000) == (50_000 * 10 + 1024 * 52) * per_layer


def test_gemma_4_has_other_heads_in_its_full_layers() -> None:
    groups = {group.kind: group for group in Architecture.load("gemma-4-26B-A4B").attention_groups()}
    assert (groups["full"].kv_heads, groups["full"].qk_dim) == (2, 512)
    assert (groups["window"].kv_heads, groups["window"].qk_dim) == (8, 256)


def test_a_hybrid_keeps_a_state_instead_of_a_cache() -> None:
    model = Architecture.load("Qwen3.5-35B-A3B")
    (group,) = model.attention_groups()
    assert group.layers == 10
    recurrent = 32 * 128 * 128 * 4
    convolution = (2 * 16 * 128 + 32 * 128) * 3 * 2
    assert model.recurrent_state_bytes() == 30 * (recurrent + convolution)
    assert [g.n for g in model.gemms() if g.name == "qkv"] == [(2 * 16 + 2 * 2) * 256]  # gated queries
    assert Architecture.load("Qwen3-8B").recurrent_state_bytes() == 0


def test_all_reduces() -> None:
    assert Architecture.load("Llama-3.1-8B").all_reduces_per_step == 2 * 32 + 1
    assert Architecture.load("gemma-4-26B-A4B").all_reduces_per_step == 3 * 30 + 1


@pytest.mark.parametrize(
    ("name", "quantization", "gib", "tolerance"),
    [
        # "Model loading took" in vLLM's startup logs, GiB per rank.
        ("Llama-3.1-8B", None, 14.99, 0.003),
        ("Qwen3-8B", None, 15.27, 0.003),
        ("Qwen3-8B", "fp8", 8.80, 0.003),
        ("Qwen3-32B", None, 61.03, 0.003),
        ("Qwen3-0.6B", None, 1.12, 0.01),
        ("Qwen2.5-7B", None, 14.25, 0.005),
        ("Qwen3-30B-A3B", None, 56.93, 0.003),
        ("Llama-3.3-70B", "fp8", 67.72, 0.003),
        ("gpt-oss-20b", None, 13.47, 0.005),
        ("gpt-oss-120b", None, 64.38, 0.005),
        # Size of the published checkpoint: 594 GB.
        ("Kimi-K2.5", None, 594e9 / 2**30, 0.01),
    ],
)
def test_weight_bytes_against_what_vllm_loads(
    name: str, quantization: str | None, gib: float, tolerance: float
) -> None:
    assert Architecture.load(name).weight_bytes(quantization) / 2**30 == pytest.approx(gib, rel=tolerance)


def test_a_checkpoint_keeps_its_own_quantization_unless_told_otherwise() -> None:
    model = Architecture.load("deepseek-ai/DeepSeek-V3")
    assert model.weight_bytes() == model.weight_bytes("fp8")
    assert model.weight_bytes("none") / 2 / model.parameters == pytest.approx(1, rel=1e-4)
    stored = model.weight_format()
    assert stored is not None
    assert stored.name == "fp8_block"


@pytest.mark.parametrize(
    ("quantization", "name", "bytes_per_weight"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 0.5 + 2.5 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8", 1 + 3 / 128),
        ({"quant_method": "fp8"}, "fp8", 1.0),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
            1.0,
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 0.5625),
    ],
)
def test_quantization_configs(tmp_path: Path, quantization: dict[str, Any], name: str, bytes_per_weight: float) -> None:
    stored = load(tmp_path, {"quantization_config": quantization}).quantization
    assert stored is not None
    assert (stored.name, stored.bytes_per_weight) == (name, bytes_per_weight)


def test_a_local_config_equals_the_shipped_model(tmp_path: Path) -> None:
    local, shipped = load(tmp_path, {"some_new_field": 1}), Architecture.load("Llama-3.1-8B")
    assert local.layers == shipped.layers
    assert local.weight_bytes() == shipped.weight_bytes()
    assert local.kind == "local"


def test_a_nested_text_config_is_unwrapped(tmp_path: Path) -> None:
    text = {**LLAMA, "model_type": "gemma3_text", "sliding_window": 512, "head_dim": 128}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gemma3", "vision_config": {}, "text_config": text}))
    model = Architecture.load(str(path))
    assert sorted((g.kind, g.layers) for g in model.attention_groups()) == [("full", 5), ("window", 27)]


def test_yarn_stretches_the_context(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    model = load(tmp_path, {"max_position_embeddings": 32768, "rope_scaling": scaling})
    assert model.max_model_len == 131072


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    with pytest.raises(InputError, match=f"config.json, field '{field}': missing. Add it"):
        load(tmp_path, without=field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": "mamba"}, "model_type"),
        ({"hidden_size": "4096"}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["mamba"] * 32}, "layer_types"),
        ({"torch_dtype": "int8"}, "torch_dtype"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "quantization_config.quant_method"),
        ({"quantization_config": 5}, "quantization_config"),
        ({"quantization_config": {"quant_method": "awq", "bits": "x"}}, "quantization_config.bits"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"a": 5}}},
            "quantization_config.config_groups",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "x"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 1e300}}, "rope_scaling.factor"),
        ({"rope_scaling": 5}, "rope_scaling"),
        ({"num_experts": 8, "mlp_only_layers": 3}, "mlp_only_layers"),
        (
            {"num_experts": 8, "num_experts_per_tok": 9, "moe_intermediate_size": 512},
            "num_experts_per_tok",
        ),
        ({"model_type": "llama4_text", "num_experts": 8, "moe_layers": 5}, "moe_layers"),
        ({"model_type": "llama4_text", "num_experts": 8, "moe_layers": "abc"}, "moe_layers"),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192, "no_rope_layers": [1]}, "no_rope_layers"),
    ],
)
def test_what_cannot_be_priced_is_refused(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, changes)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        Architecture.load(path)


@pytest.mark.parametrize(
    ("name", "tp", "obstacle"),
    [("Qwen2.5-7B", 8, "28 attention heads"), ("phi-4", 4, "10 key/value heads"), ("Qwen3-8B", 0, "0 ranks")],
)
def test_heads_must_divide(name: str, tp: int, obstacle: str) -> None:
    with pytest.raises(InputError, match=obstacle):
        Architecture.load(name).gemms(tp)


def test_shipped_profiles_hold_no_unknown_field() -> None:
    for stem, text in _profiles.shipped("models").items():
        table = _profiles.parse_toml(text, file=stem)
        with pytest.raises(InputError, match="unknown field"):
            _profiles.check_fields({**table, "typo": 1}, file=stem, required=table)
