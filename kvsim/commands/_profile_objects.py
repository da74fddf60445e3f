"""GPUs and models as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from kvsim._inheritance import calibration_of
from kvsim.architecture import Architecture
from kvsim.commands._evidence import calibration_object
from kvsim.hardware import Gpu

WEIGHT_FORMATS = ("none", "fp8", "awq", "mxfp4")
"""vLLM's names for ``quantization`` whose weight bytes are shown beside the checkpoint's own."""


def gpu_object(card: Gpu) -> dict[str, Any]:
    """A GPU's numbers in base units, each with its source, and what calibration ships for it."""
    texts = ("id", "name", "architecture", "compute_capability", "bf16")
    facts = dict(card.facts)
    numbers = {name: {"value": getattr(card, name), **asdict(fact)} for name, fact in facts.items()}
    return {"type": "gpu", **{name: getattr(card, name) for name in texts}, "numbers": numbers, **_evidence(card)}


def _evidence(card: Gpu) -> dict[str, Any]:
    found = calibration_of(card)
    return {"calibration": calibration_object(found) | {"evidence": asdict(found.evidence)}}


def model_object(it: Architecture) -> dict[str, Any]:
    """What follows from a model's architecture."""
    return {
        "type": "model",
        "name": it.name,
        "parameters": it.parameters,
        "active_parameters": it.active_parameters,
        "layers": it.num_layers,
        "hidden_size": it.hidden_size,
        "vocab_size": it.vocab_size,
        "max_model_len": it.max_model_len,
        "dtype": it.dtype,
        "quantization": it.quantization.name if it.quantization else None,
        "weight_bytes": {"checkpoint": it.weight_bytes(), **{name: it.weight_bytes(name) for name in WEIGHT_FORMATS}},
        "kv_bytes_per_token": {name: it.kv_bytes_per_token(name) for name in ("bfloat16", "fp8")},
        "recurrent_state_bytes": it.recurrent_state_bytes(),
        "kind": it.kind,
        "source": it.source,
        "notes": list(it.notes),
    }
