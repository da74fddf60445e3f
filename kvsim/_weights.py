"""How weights are stored: bytes per weight of each quantisation, and which matrices it covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kvsim.errors import InputError, UnknownNameError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes per element of the dtypes vLLM computes in."""

_DTYPE_ALIASES = {
    "bf16": "bfloat16",
    "half": "float16",
    "fp16": "float16",
    "float": "float32",
    "fp32": "float32",
}


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """A storage format of quantised weights, scales included.

    ``scope``: "linear" covers every quantisable product of the layers, "experts" only the routed experts;
    embeddings, the language-model head, routers and norms always stay in the model's dtype, as in vLLM.
    ``compute`` names the arithmetic of the products: weight-only formats compute in the model's dtype.
    ``hidden_multiple``: vLLM pads the hidden size of routed experts to a multiple of this for its kernels.
    """

    name: str
    bytes_per_weight: float
    scope: Literal["linear", "experts"]
    compute: Literal["dtype", "fp8", "int8", "fp4"]
    hidden_multiple: int = 1


FORMATS: Mapping[str, WeightFormat] = {
    # One fp32 scale per tensor or channel is not worth counting; one per 128 x 128 block is 0.02 %.
    "fp8": WeightFormat("fp8", 1.0, "linear", "fp8"),
    "fp8_block": WeightFormat("fp8_block", 1 + 4 / 128**2, "linear", "fp8"),
    "int8": WeightFormat("int8", 1.0, "linear", "int8"),
    # Groups of 128 weights share an fp16 scale and a 4-bit zero point (AutoAWQ and GPTQ checkpoints).
    "int4": WeightFormat("int4", 0.5 + 2.5 / 128, "linear", "dtype"),
    # OCP microscaling: blocks of 32 share an 8-bit exponent; gpt-oss quantises its experts only.
    # vLLM's kernels want multiples of 256 (logs on an H100: gpt-oss-20b 13.5 GiB, 120b 64.4 GiB).
    "mxfp4": WeightFormat("mxfp4", 0.5 + 1 / 32, "experts", "dtype", hidden_multiple=256),
    # Blocks of 16 share an fp8 scale.
    "nvfp4": WeightFormat("nvfp4", 0.5 + 1 / 16, "linear", "fp4"),
}

_ALIASES = {
    "awq": "int4",
    "awq_marlin": "int4",
    "gptq": "int4",
    "gptq_marlin": "int4",
    "modelopt": "fp8",
    "modelopt_fp4": "nvfp4",
    "w8a8": "int8",
}

UNQUANTIZED = ("none", "bf16", "fp16", *DTYPE_BYTES)
"""Names that ask for unquantised weights, whatever the checkpoint holds."""


def dtype_name(name: str, *, field: str = "dtype") -> str:
    """The full name of a dtype ("bf16" -> "bfloat16"); InputError if vLLM does not compute in it."""
    full = _DTYPE_ALIASES.get(name.lower(), name.lower())
    if full not in DTYPE_BYTES:
        raise InputError(
            f"{name!r} is no dtype to compute in", remedy="use " + ", ".join(DTYPE_BYTES) + ".", field=field
        )
    return full


def weight_format(name: str) -> WeightFormat:
    """The format of a quantisation by vLLM's or its own name; UnknownNameError."""
    key = name.lower()
    key = _ALIASES.get(key, key)
    if key not in FORMATS:
        raise UnknownNameError("quantization", name, (*FORMATS, *_ALIASES, *UNQUANTIZED))
    return FORMATS[key]


def checkpoint_format(quantization: object, *, file: str) -> WeightFormat:
    """The format that a config's ``quantization_config`` describes; InputError if it is not known here."""
    if not isinstance(quantization, Mapping):
        raise _wrong(f"{quantization!r} is not an object with fields", file=file)
    method = str(quantization.get("quant_method", "")).lower()
    if method == "fp8":
        return FORMATS["fp8_block" if quantization.get("weight_block_size") else "fp8"]
    if method == "compressed-tensors":
        return _compressed_tensors(quantization, file=file)
    if method == "modelopt" and "FP4" in str(quantization.get("quant_algo", "")).upper():
        return FORMATS["nvfp4"]
    if method in ("awq", "gptq"):
        bits = _integer(quantization, "bits" if "bits" in quantization else "w_bit", 4, file=file)
        group = _integer(quantization, "group_size" if "group_size" in quantization else "q_group_size", 128, file=file)
        return _grouped_integers(bits, group, "linear", zero_points=True)
    if method in FORMATS or method in _ALIASES:
        return weight_format(method)
    raise InputError(
        f"quantisation {method!r} is not known",
        remedy="Known: fp8, awq, gptq, compressed-tensors, mxfp4, modelopt.",
        file=file,
        field="quantization_config.quant_method",
    )


def _compressed_tensors(quantization: Mapping[str, Any], *, file: str) -> WeightFormat:
    groups = quantization.get("config_groups")
    group_0 = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    first: Mapping[str, Any] = group_0 if isinstance(group_0, Mapping) else {}
    weights = first.get("weights")
    if not isinstance(weights, Mapping) or "num_bits" not in weights:
        raise InputError(
            "compressed-tensors without the bits of its weights",
            remedy="Keep config_groups.group_0.weights with num_bits, type and group_size.",
            file=file,
            field="quantization_config.config_groups",
        )
    where = "config_groups.group_0.weights."
    bits = _integer(weights, "num_bits", 8, file=file, under=where)
    ignored = quantization.get("ignore") or []
    if not isinstance(ignored, list):
        raise _wrong(f"{ignored!r} is not a list of names", file=file, field="ignore")
    attention_left_out = any("self_attn" in str(name) for name in ignored)
    scope: Literal["linear", "experts"] = "experts" if attention_left_out else "linear"
    kind = weights.get("type", "int")
    if bits == 8:
        base = FORMATS["fp8" if kind == "float" else "int8"]
        weight_only = first.get("input_activations") is None
        return WeightFormat(base.name, base.bytes_per_weight, scope, "dtype" if weight_only else base.compute)
    if kind == "float":
        return WeightFormat("nvfp4", FORMATS["nvfp4"].bytes_per_weight, scope, "fp4")
    zero_points = not weights.get("symmetric", True)
    group = _integer(weights, "group_size", 0, file=file, under=where)
    return _grouped_integers(bits, group, scope, zero_points=zero_points)


def _integer(table: Mapping[str, Any], name: str, default: int, *, file: str, under: str = "") -> int:
    """A whole number (-1: one group a row; bits are at least 1); the default where it is missing or null."""
    value = table.get(name)
    if value is None:
        return default
    least = 1 if "bit" in name else -1
    if type(value) is not int or not least <= value <= 2**20:
        raise _wrong(f"{value!r} is not a whole number of at least {least}", file=file, field=under + name)
    return value


def _wrong(problem: str, *, file: str, field: str = "") -> InputError:
    place = f"quantization_config.{field}" if field else "quantization_config"
    return InputError(problem, remedy="Correct it; the model's own config.json has it.", file=file, field=place)


def _grouped_integers(bits: int, group: int, scope: Literal["linear", "experts"], *, zero_points: bool) -> WeightFormat:
    """Weight-only integers; groups share a 16-bit scale and maybe a zero point (``group`` <= 0: none)."""
    overhead = (2 + (bits / 8 if zero_points else 0)) / group if group > 0 else 0.0
    return WeightFormat(f"int{bits}", bits / 8 + overhead, scope, "dtype")
