"""Times of single engine steps: kvsim, AIConfigurator (its kernel tables), GenZ (a roofline).

Neither peer counts what the engine does between kernels, so that they are below where steps are short.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peers.environments import AICONFIGURATOR, GENZ, Peer

import kvsim
from kvsim.hardware import gpu

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Step:
    """``decoding`` sequences of ``context`` tokens each, or a prompt of ``new`` tokens after ``cached`` ones."""

    model: str
    gpu: str
    decoding: int = 0
    context: int = 0
    new: int = 0
    cached: int = 0


MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B")
GPUS = ("a100-80gb-sxm", "h100-sxm", "h200-sxm", "l40s", "rtx-pro-6000")


def steps() -> Iterator[Step]:
    """8 sequences decoding at 8k context; prompts of 2,048 tokens, fresh and after 16,384 cached ones."""
    for model in MODELS:
        for card in GPUS:
            yield Step(model, card, decoding=8, context=8192)
            yield Step(model, card, new=2048)
            yield Step(model, card, new=2048, cached=16384)


def by_kvsim(step: Step) -> float | None:
    """Milliseconds; None where the model does not fit."""
    what = {"decode_context": [step.context] * step.decoding} if step.decoding else {}
    if step.new:
        what = {"prefill_new": [step.new], "prefill_cached": [step.cached]}
    try:
        engine = kvsim.EngineConfig(max_num_batched_tokens=16_384)
        return kvsim.step_time(model=step.model, gpu=step.gpu, engine=engine, **what).seconds * 1e3
    except kvsim.KvsimError:
        return None


def compared() -> dict[str, Any]:
    """kvsim's milliseconds, row by row, and the microseconds of a call."""
    asked = list(steps())
    rows = [{**asdict(step), "kvsim": by_kvsim(step)} for step in asked]
    start_s = time.process_time()
    for _ in range(300):
        by_kvsim(asked[0])
    call_us = (time.process_time() - start_s) / 300 * 1e6
    return {"rows": rows, "call_us": call_us, "version": kvsim.__version__}


def asked_of(peer: Peer, script: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The peer's answers to all rows, None where it has none, with its version and the microseconds of a call."""
    python = peer.python()
    cards = {name: gpu(name) for name in GPUS}
    facts = {
        name: {
            "tflops": card.half_flop_per_s / 1e12,
            "gb_per_s": card.memory_bandwidth_byte_per_s / 1e9,
            "gb": card.memory_bytes / 1e9,
        }
        for name, card in cards.items()
    }
    found: dict[str, Any] = json.loads(
        peer.output([str(python), str(HERE / script), json.dumps({"rows": rows, "gpus": facts})]).splitlines()[-1]
    )
    return found


def by_aiconfigurator(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """From its tables of kernels, vLLM's."""
    return asked_of(AICONFIGURATOR, "run_aiconfigurator.py", rows)


def by_genz(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """From the card's peaks alone; it has no prompts after cached tokens, and few of the models."""
    return asked_of(GENZ, "run_genz.py", rows)
