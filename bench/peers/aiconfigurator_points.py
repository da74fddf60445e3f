"""What AIConfigurator 0.12 says of the serving points that kvsim ships.

Run with the Python of an environment of its own (``pip install aiconfigurator==0.12.0``):

    python bench/peers/aiconfigurator_points.py profiles/validation.csv.gz bench/peers/aiconfigurator.csv

It predicts steps, not queues: of closed loops that are not queued, the time between tokens is a decode step and the
others' prefills that fall between two tokens, and the time to first token is a prefill. Points of GPUs, models and
formats that it has no tables for are left out.
"""

from __future__ import annotations

import csv
import gzip
import sys
from functools import cache
from pathlib import Path

from aiconfigurator_core.sdk.engine import EngineHandle

SYSTEMS = {"a100-80gb-sxm": "a100_sxm", "a100-40gb-sxm": "a100_sxm", "h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm"}
SYSTEMS |= {"b200-sxm": "b200_sxm", "l40s": "l40s", "rtx-pro-6000": "rtx_pro_6000_server"}

MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B-Instruct": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.3-70B-Instruct": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-405B-Instruct": "meta-llama/Meta-Llama-3.1-405B",
    "mistralai/Mistral-7B-v0.1": "meta-llama/Meta-Llama-3.1-8B",  # the same layers, another vocabulary
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "Qwen/Qwen3-30B-A3B",
}
"""AIConfigurator's names where they differ from ours."""

FORMATS = {
    "none": {},
    "fp8": {"gemm_quant_mode": "fp8"},
    "nvfp4": {"gemm_quant_mode": "nvfp4", "moe_quant_mode": "nvfp4"},
    "int4": {"moe_quant_mode": "int4_wo"},
    "mxfp4": {"moe_quant_mode": "w4a16_mxfp4"},
}
BLOCK_SCALED = ("MiniMaxAI/MiniMax-M2.5", "deepseek-ai/")
"""Models whose fp8 checkpoints scale by blocks; their quantisation is their configuration's."""


KEY = ("gpu", "source", "model", "quantization", "tensor_parallel", "measure", "prompt_tokens", "output_tokens")
KEY += ("concurrency", "measured_s")
"""The columns that tell points apart."""


@cache
def handle(model: str, system: str, quantization: str, cache: str, ranks: int) -> EngineHandle:
    own = model.startswith(BLOCK_SCALED) and quantization == "fp8"
    formats = {} if own else dict(FORMATS[quantization])
    if cache == "fp8":
        formats["kvcache_quant_mode"] = "fp8"
    name = MODELS.get(model, model)
    return EngineHandle.compile(name, system, "vllm", tp_size=ranks, moe_tp_size=ranks, moe_ep_size=1, **formats)


def milliseconds(engine: EngineHandle, point: dict[str, str]) -> float:
    prompt, output, together = (round(float(point[name])) for name in ("prompt_tokens", "output_tokens", "concurrency"))
    if point["measure"] == "ttft":
        return engine.predict_prefill_latency(1, prompt)
    middle = prompt + output // 2
    decode = engine.decode_step_latency(together, middle, 2)
    if point["measure"] == "itl":
        return decode
    if point["measure"] == "batch":
        return engine.predict_prefill_latency(together, prompt) + (output - 1) * decode
    mixed = engine.mixed_step_latency(prompt, max(together - 1, 1), middle, 2)
    return decode + together / output * (mixed - decode)


def main(points: Path, answers: Path) -> None:
    rows = list(csv.DictReader(gzip.decompress(points.read_bytes()).decode().splitlines()))
    out, left = [], {}
    for row in rows:
        if row["path"] or row["regime"] == "queued" or row["gpu"] not in SYSTEMS:
            continue
        ranks = round(float(row["tensor_parallel"]))
        try:
            engine = handle(row["model"], SYSTEMS[row["gpu"]], row["quantization"], row["cache"], ranks)
            out.append({name: row[name] for name in KEY} | {"seconds": f"{milliseconds(engine, row) / 1e3:.5g}"})
        except Exception as error:  # whatever it says of what it has no tables for
            key = (row["gpu"], row["model"], row["quantization"], f"{type(error).__name__}: {str(error)[:80]}")
            left[key] = left.get(key, 0) + 1
    with answers.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*KEY, "seconds"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(out)
    for key, count in sorted(left.items()):
        print(f"left out {count:4d}  {'  '.join(key)}")
    print(f"{len(out)} of {len(rows)} points")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
