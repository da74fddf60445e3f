"""Reduce the raw evidence to the figures that the fit reads: profiles/measurements/*.csv.gz and serving.csv.

    python tools/collect_measurements.py --shared PATH

PATH holds ``data/measured`` as collected from the public repositories that profiles/measurements/README.md
names. Rows are thinned by whole configurations, never by value; times become microseconds (kernels) or
seconds (serving).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

Row = dict[str, str]

SYSTEMS = {
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
    "b200_sxm": "b200-sxm",
}
"""aiconfigurator's systems by our GPU ids."""

IN_ENGINE = {
    "RTX4090__meta-llama__Llama-3.1-8B__bf16__tp1": ("rtx-4090", 4096, 14336, 32, 8, 128256, 1),
    "RTXPRO6000__meta-llama__Llama-3.1-8B__bf16__tp1": ("rtx-pro-6000", 4096, 14336, 32, 8, 128256, 1),
    "RTXPRO6000__Qwen__Qwen3-32B__bf16__tp1": ("rtx-pro-6000", 5120, 25600, 64, 8, 151936, 1),
    "RTXPRO6000__Qwen__Qwen3-32B__bf16__tp2": ("rtx-pro-6000", 5120, 25600, 64, 8, 151936, 2),
    "RTXPRO6000__Qwen__Qwen3-30B-A3B-Instruct-2507__bf16__tp1": ("rtx-pro-6000", 2048, 0, 32, 4, 151936, 1),
}
"""LLMServingSim's profiles: GPU, hidden, intermediate, heads, KV heads, vocabulary, ranks; heads of 128."""

APART = {
    "RTXPRO6000__meta-llama__Llama-3.1-8B__bf16__tp2": ("rtx-pro-6000", 16, 4),
    "RTXPRO6000__Qwen__Qwen3-30B-A3B-Instruct-2507__bf16__tp2": ("rtx-pro-6000", 16, 2),
}
"""Profiles whose attention beside a chunk is kept apart, to be predicted and not fitted: GPU, heads and KV heads of a
rank."""

HEAD_DIM = 128
FORMATS = {
    "bfloat16": "bf16",
    "": "bf16",
    "fp8": "fp8",
    "nvfp4": "fp4",
    "int4_wo": "packed",
    "w4a16_mxfp4": "mxfp4",
}
GEMM_TOKENS = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
MODEL_LIKE = {1024, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 16384, 51200, 65536}
"""Matrix sides that occur in models; the grid's others only bound small products."""


def rows(path: Path) -> Iterator[Row]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


def short(value: float) -> str:
    return f"{value:.5g}"


class Tables:
    """Output tables by name, each with its columns fixed by its first row."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}

    def add(self, table: str, **row: object) -> None:
        self.rows.setdefault(table, []).append({name: str(value) for name, value in row.items()})

    def write(self, folder: Path) -> None:
        for table, content in self.rows.items():
            text = io.StringIO()
            writer = csv.DictWriter(text, content[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(content)
            data = text.getvalue().encode()
            if table == "serving":
                (folder / "serving.csv").write_bytes(data)
            else:  # no time stamp: the same rows make the same bytes
                (folder / f"{table}.csv.gz").write_bytes(gzip.compress(data, 9, mtime=0))
            print(f"{table}: {len(content)} rows")


def aiconfigurator(folder: Path, out: Tables) -> None:
    for system, gpu in SYSTEMS.items():
        tables = {path.name.split("__")[-1].removesuffix(".csv.gz"): path for path in folder.glob(f"{system}__*")}
        about = {"gpu": gpu, "source": "aiconfigurator"}
        for row in rows(tables["gemm_perf"]):
            fmt = FORMATS.get(row.get("gemm_dtype", ""))
            n, k, tokens = int(row["n"]), int(row["k"]), int(row["m"])
            # fp8_block is left out: its rows are bound by the CPU that launches them, not by the kernel.
            if fmt and tokens in GEMM_TOKENS and {n, k} <= MODEL_LIKE and n * k <= 300_000_000:
                us = short(1e3 * float(row["latency"]))
                out.add("gemm", **about, format=fmt, tokens=tokens, n=n, k=k, us=us)
        for row in rows(tables["moe_perf"]):
            # Per-tensor fp8 experts run on a slow fallback kernel; released fp8 models scale by blocks.
            fmt = {**FORMATS, "fp8": None, "fp8_block": "fp8"}.get(row.get("moe_dtype", ""))
            if fmt == "mxfp4" and "gptoss" not in row["kernel_source"]:
                continue  # formats of other models, on the fallback kernel of packed weights
            one_rank = row["moe_ep_size"] == "1" and int(row["moe_tp_size"]) <= 8
            if fmt and one_rank and row["distribution"] != "power_law_1.2":
                out.add(
                    "experts",
                    **about,
                    format=fmt,
                    tokens=row["num_tokens"],
                    count=row["num_experts"],
                    per_token=row["topk"],
                    hidden=row["hidden_size"],
                    intermediate=int(row["inter_size"]) // int(row["moe_tp_size"]),
                    routing=row["distribution"],
                    us=short(1e3 * float(row["latency"])),
                )
        for row in rows(tables["context_attention_perf"]):
            batch, new, heads = int(row["batch_size"]), int(row["isl"]), int(row["num_heads"])
            kv_heads = int(row["num_key_value_heads"]) or heads
            dim, window = int(row.get("head_dim", HEAD_DIM)), int(row.get("window_size", 0))
            if batch <= 32 and new >= 128 and batch * new <= 32768 and heads >= 8 and dim <= 256 and kv_heads <= 8:
                out.add(
                    "prefill_attention",
                    **about,
                    cache=FORMATS[row.get("kv_cache_dtype", "")],
                    batch=batch,
                    new=new,
                    cached=0,
                    heads=heads,
                    kv_heads=kv_heads,
                    dim=dim,
                    window=window,
                    us=short(1e3 * float(row["latency"])),
                )
        for row in rows(tables["generation_attention_perf"]):
            sequences, context, heads = int(row["batch_size"]), int(row["step"]) + 1, int(row["num_heads"])
            kv_heads = int(row["num_key_value_heads"]) or heads
            dim, window = int(row.get("head_dim", HEAD_DIM)), int(row.get("window_size", 0))
            held = sequences * context * kv_heads * dim * 4
            shared = 2 <= heads / kv_heads <= 16
            if sequences <= 512 and context >= 16 and heads >= 8 and shared and held <= 40e9 and dim in (64, 128):
                out.add(
                    "decode_attention",
                    **about,
                    cache=FORMATS[row.get("kv_cache_dtype", "")],
                    sequences=sequences,
                    context=context,
                    heads=heads,
                    kv_heads=kv_heads,
                    dim=dim,
                    window=window,
                    us=short(1e3 * float(row["latency"])),
                )
        latent = tables.get("mla_generation_module_perf") or tables["generation_mla_perf"]
        for row in rows(latent):
            plain = row.get("gemm_type", "bfloat16") == "bfloat16" == row.get("kv_cache_dtype", "bfloat16")
            if plain and int(row["num_heads"]) >= 16 and int(row["batch_size"]) <= 256:
                out.add(
                    "latent_decode",
                    **about,
                    sequences=row["batch_size"],
                    context=int(row["step"]),
                    heads=row["num_heads"],
                    us=short(1e3 * float(row["latency"])),
                )
        all_reduce(tables, about, out)


def all_reduce(tables: dict[str, Path], about: dict[str, str], out: Tables) -> None:
    """The faster of vLLM's own all-reduce in a CUDA graph and NCCL's, as vLLM would choose."""
    best: dict[tuple[int, int], float] = {}
    for name, keep in (
        ("custom_allreduce_perf", lambda row: row["backend"] == "vllm_graph"),
        ("nccl_perf", lambda row: row["op_name"] == "all_reduce" and row["nccl_dtype"] == "half"),
    ):
        for row in rows(tables[name]) if name in tables else ():
            if keep(row):
                elements = int(row["message_size"])  # halves: only so do large messages reach the links' known rate
                key = int(row["num_gpus"]), elements
                best[key] = min(best.get(key, 1e9), float(row["latency"]))
    for (ranks, size), milliseconds in sorted(best.items()):
        if size <= 2**26:
            out.add("all_reduce", **about, ranks=ranks, bytes=2 * size, us=short(1e3 * milliseconds))


def in_engine(folder: Path, out: Tables) -> None:
    """LLMServingSim: layers and mixed attention timed inside vLLM 0.19."""
    for name, (gpu, hidden, inner, heads, kv_heads, vocabulary, ranks) in IN_ENGINE.items():
        about = {"gpu": gpu, "source": "llmservingsim"}
        q, kv = heads // ranks * HEAD_DIM, kv_heads // ranks * HEAD_DIM
        products = {
            "qkv_proj": (q + 2 * kv, hidden),
            "o_proj": (hidden, q),
            "gate_up_proj": (2 * inner // ranks, hidden),
            "down_proj": (hidden, inner // ranks),
        }
        moved = {"layernorm": 4 * hidden, "act_fn": 3 * inner // ranks, "rotary_emb": 2 * (q + kv)}
        for row in rows(folder / f"{name}__dense.csv"):
            tokens, us = int(row["tokens"]), short(float(row["time_us"]))
            if row["layer"] in products:
                n, k = products[row["layer"]]
                out.add("gemm", **about, format="bf16", tokens=tokens, n=n, k=k, us=us)
            elif row["layer"] in moved:
                size = tokens * moved[row["layer"]] * 2
                out.add("elementwise", **about, kernel=row["layer"], bytes=size, us=us)
        for row in rows(folder / f"{name}__per_sequence.csv"):
            sequences, us = int(row["sequences"]), short(float(row["time_us"]))
            if row["layer"] == "lm_head":
                out.add("gemm", **about, format="bf16", tokens=sequences, n=vocabulary // ranks, k=hidden, us=us)
            else:
                out.add("sampler", **about, sequences=sequences, vocabulary=vocabulary, us=us)
        for row in rows(folder / f"{name}__attention.csv"):
            new, cached = int(row["prefill_chunk"]), int(row["kv_prefill"])
            sequences, context = int(row["n_decode"]), int(row["kv_decode"])
            shape = {"heads": heads // ranks, "kv_heads": kv_heads // ranks, "dim": HEAD_DIM, "window": 0}
            us = short(float(row["time_us"]))
            if not sequences:
                out.add(
                    "prefill_attention",
                    **about,
                    cache="bf16",
                    batch=1,
                    new=new,
                    cached=cached,
                    **shape,
                    us=us,
                )
            elif not new:
                out.add(
                    "decode_attention",
                    **about,
                    cache="bf16",
                    sequences=sequences,
                    context=context,
                    **shape,
                    us=us,
                )
            elif (new + cached + sequences + context) % 3 == 0:
                out.add(
                    "mixed_attention",
                    **about,
                    new=new,
                    cached=cached,
                    sequences=sequences,
                    context=context,
                    **shape,
                    us=us,
                )


def apart(folder: Path, out: Tables) -> None:
    """Attention beside a chunk of shapes that no fit sees, every ninth row."""
    for name, (gpu, heads, kv_heads) in APART.items():
        for row in rows(folder / f"{name}__attention.csv"):
            new, cached = int(row["prefill_chunk"]), int(row["kv_prefill"])
            sequences, context = int(row["n_decode"]), int(row["kv_decode"])
            if new and sequences and (new + cached + sequences + context) % 9 == 0:
                out.add(
                    "mixed_attention_apart",
                    gpu=gpu,
                    source="llmservingsim",
                    new=new,
                    cached=cached,
                    sequences=sequences,
                    context=context,
                    heads=heads,
                    kv_heads=kv_heads,
                    dim=HEAD_DIM,
                    window=0,
                    us=short(float(row["time_us"])),
                )


def plain_layers(folder: Path, out: Tables) -> None:
    """LLMServingSim's older PyTorch profile of an RTX 3090: matrix products only (the rest is unfused)."""
    hidden, inner, kv, vocabulary = 4096, 14336, 1024, 128256
    shapes = {
        "q_proj": (hidden, hidden),
        "k_proj": (kv, hidden),
        "o_proj": (hidden, hidden),
        "gate_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "lm_head": (vocabulary, hidden),
    }
    for row in rows(folder / "v0__RTX3090__meta-llama__Llama-3.1-8B__tp1__layers.csv.gz"):
        tokens = int(row["input"])
        if row["layer_name"] in shapes and (tokens in GEMM_TOKENS or tokens % 200 == 0):
            n, k = shapes[row["layer_name"]]
            us = short(float(row["latency(ns)"]) / 1e3)
            out.add("gemm", gpu="rtx-3090", source="llmservingsim", format="bf16", tokens=tokens, n=n, k=k, us=us)


def vidur(folder: Path, out: Tables) -> None:
    """Vidur's medians of the matrix products on an A40."""
    for path in sorted(folder.glob("a40__*__mlp.csv.gz")):
        for row in rows(path):
            tokens, ranks = int(row["num_tokens"]), int(row["num_tensor_parallel_workers"])
            hidden, inner = int(row["n_embd"]), int(row["n_expanded_embd"]) // ranks
            q, kv = hidden // ranks, int(row["n_kv_head"]) * hidden // int(row["n_head"]) // ranks
            if tokens % 256 and tokens not in GEMM_TOKENS:
                continue
            for part, n, k in (
                ("attn_pre_proj", q + 2 * kv, hidden),
                ("attn_post_proj", hidden, q),
                ("mlp_up_proj", 2 * inner, hidden),
                ("mlp_down_proj", hidden, inner),
            ):
                milliseconds = row[f"time_stats.{part}.median"]
                if milliseconds and kv:
                    us = short(1e3 * float(milliseconds))
                    out.add("gemm", gpu="a40", source="vidur", format="bf16", tokens=tokens, n=n, k=k, us=us)


GPUS = {
    "A100-40GB-SXM": "a100-40gb-sxm",
    "A100-80GB-SXM": "a100-80gb-sxm",
    "H100-80GB": "h100-sxm",
    "H100-80GB-SXM": "h100-sxm",
    "H100-64GB-SXM(MareNostrum5)": "h100-64gb-sxm",
    "GH200-96GB": "gh200",
    "H200-141GB-SXM": "h200-sxm",
    "B200-180GB-SXM": "b200-sxm",
    "B300-SXM": "b300-sxm",
    "MI300X": "mi300x",
    "RTX-4090-24GB": "rtx-4090",
    "RTX-5090-32GB": "rtx-5090",
    "RTX-PRO-6000-Blackwell": "rtx-pro-6000",
    "L40S-48GB": "l40s",
    "RTX-3090-24GB": "rtx-3090",
    "A10G-24GB": "a10g",
}

MODELS = {
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "NousResearch/Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3-70B": "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/Llama-3.1-70B": "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/Meta-Llama-3.1-70B-Instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "ibnzterrell/Meta-Llama-3.3-70B-Instruct-AWQ-INT4": "meta-llama/Llama-3.3-70B-Instruct",
    "meta-llama/Meta-Llama-3.1-405B-Instruct": "meta-llama/Llama-3.1-405B-Instruct",
    "Qwen/Qwen2-7B": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen2-72B": "Qwen/Qwen2.5-72B-Instruct",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "mistralai/Mixtral-8x7B-v0.1",
    "mistralai/Mixtral-8x22B-Instruct-v0.1": "mistralai/Mixtral-8x22B-v0.1",
    "codellama/CodeLlama-7b-hf": "meta-llama/Llama-2-7b-hf",
    "codellama/CodeLlama-34b-hf": "codellama/CodeLlama-34b-Instruct-hf",
    "Qwen/Qwen3-30B-A3B-Thinking-2507": "Qwen/Qwen3-30B-A3B-Instruct-2507",
    "Qwen/Qwen3-235B-A22B-Instruct-2507": "Qwen/Qwen3-235B-A22B",
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8": "Qwen/Qwen3-235B-A22B",
    "Qwen/Qwen3-235B-A22B-Thinking-2507": "Qwen/Qwen3-235B-A22B",
    "Qwen/Qwen3-235B-A22B-Thinking-2507-FP8": "Qwen/Qwen3-235B-A22B",
    "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8": "Qwen/Qwen3-Coder-480B-A35B-Instruct",
    "deepseek-ai/DeepSeek-V3.1": "deepseek-ai/DeepSeek-V3",
    "deepseek-ai/DeepSeek-R1-0528": "deepseek-ai/DeepSeek-R1",
    "QuantTrio/Qwen3-Coder-30B-A3B-Instruct-AWQ": "Qwen/Qwen3-Coder-30B-A3B-Instruct",
    "cpatonn/GLM-4.5-Air-AWQ-4bit": "zai-org/GLM-4.5-Air",
    "QuantTrio/Qwen3-Coder-480B-A35B-Instruct-AWQ": "Qwen/Qwen3-Coder-480B-A35B-Instruct",
    "nvidia/Kimi-K2.5-NVFP4": "moonshotai/Kimi-K2.5",
}
"""Models of other names whose shapes equal those of a shipped architecture (vocabularies within 1 %). Llama
405B FP8 is not among them: its attention is not quantised."""

QUANTIZATIONS = {
    "": "none",
    "fp16": "none",
    "bf16": "none",
    "bfloat16": "none",
    "fp16/bf16": "none",
    "bf16 (vLLM default)": "none",
    "fp8": "fp8",
    "mxfp4": "mxfp4",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
    "int4": "int4",
    "awq": "int4",
    "awq-int4": "int4",
    "gptq-int4": "int4",
}

ASSUMED_INPUT = {"chat": 250, "code": 180, "lm-arena-chat": 150, "gpqa": 250, "sourcegraph-fim": 500}
"""Mean prompt tokens of the ML.ENERGY workloads, which its files do not state: ours, after the datasets."""


HOPPER, B200 = ("h100-sxm", "h200-sxm"), ("b200-sxm",)

RECIPES = {
    ("meta-llama/Llama-3.1-70B-Instruct", "fp8"): ((*HOPPER, *B200), "fp8", ""),
    ("meta-llama/Llama-3.1-70B-Instruct", "nvfp4"): (B200, "fp8", ""),
    ("openai/gpt-oss-120b", "mxfp4"): (B200, "fp8", "experts with 8-bit activations"),
}
"""What the launch scripts of the InferenceX benchmark (github.com/SemiAnalysisAI/InferenceX, benchmarks/) say of
aiconfigurator_silicon's points and the points do not: the GPUs they are for, the KV cache's format, and what makes the
engine take another path: experts that multiply 8-bit activations (an environment variable; by default, and in the
kernel tables, they have 16)."""

SPREAD_EXPERTS = ("b200-sxm", "MiniMaxAI/MiniMax-M2.5", "fp8")
"""There the script turns expert parallelism on whatever the number of expert ranks."""

ROUNDED_MS = 0.006
"""Times that differ by less are of one run."""

UNSTEADY = 1.3
"""Where the 90 % quantile of the time between tokens exceeds so many medians, the engine waits for its
host: on ML.ENERGY's single B200s an 8B model takes longer than a 32B one, while the H100 rows have ratios
below 1.2."""


def serving(folder: Path, known: set[str], out: Tables) -> None:
    """Serving points as (model, load) -> seconds. ``measure``: "batch" whole static batch from submission
    to last token; "itl" median time between tokens; "tpot" mean time per output token of requests under
    load."""
    dropped: Counter[str] = Counter()
    readers = {
        "argonne_llm_inference_bench": static_batch,
        "qwen_speed_benchmark": static_batch,
        "mlenergy_v3": energy,
        "mlenergy_v2": energy,
        "aiconfigurator_silicon": loaded,
        "cloudrift": loaded,
        "gpullm_h100_64gb": loaded,
        "backprop_3090": loaded,
        "philschmid_a10g": loaded,
    }
    seen: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for name, reader in readers.items():
        for row in rows(folder / f"{name}.csv"):
            model = MODELS.get(row["model"], row["model"])
            gpu, quantization = GPUS.get(row["gpu"]), QUANTIZATIONS.get(row["dtype"])
            if name == "aiconfigurator_silicon" and "gpt-oss" in model:
                quantization = "mxfp4"
            reason = (
                f"GPU {row['gpu']}"
                if gpu is None
                else f"format {row['dtype']}"
                if quantization is None
                else f"model {row['model'] or 'not stated'}"
                if model not in known
                else None
            )
            if reason:
                dropped[f"{name}: {reason}"] += 1
                continue
            point = reader(row)
            recipe = name == "aiconfigurator_silicon" and RECIPES.get((model, quantization))
            cache, path = recipe[1:] if recipe and gpu in recipe[0] else ("bf16", "")
            if name == "aiconfigurator_silicon" and (gpu, model, quantization) == SPREAD_EXPERTS:
                point = point | {"expert_parallel": point["tensor_parallel"]} if isinstance(point, dict) else point
            if name == "mlenergy_v3" and gpu == "b200-sxm" and float(row["num_gpus"] or 1) == 1:
                path = "host sets the pace"
            if isinstance(point, str):
                dropped[f"{name}: {point}"] += 1
                continue
            if row["ttft_ms"] and again(seen, (gpu, name, model, quantization, row["engine_version"]), point, row):
                dropped[f"{name}: the same figures again"] += 1
                continue
            if name == "cloudrift" and "--kv-cache-dtype fp8" in row["notes"]:
                cache = "fp8"
            out.add(
                "serving",
                gpu=gpu,
                source=name,
                engine=row["engine_version"] or "not stated",
                model=model,
                quantization=quantization,
                cache=cache,
                path=path,
                fused=int(
                    fuses_norms(name, str(gpu), model, row["engine_version"], int(float(point["tensor_parallel"])))
                ),
                **point,
                ttft_s=short(float(row["ttft_ms"]) / 1e3) if row["ttft_ms"] and reader is loaded else "nan",
            )
    for reason, count in sorted(dropped.items()):
        print(f"left out {count:5d}  {reason}")


def again(
    seen: dict[tuple[object, ...], list[tuple[float, float]]],
    about: tuple[object, ...],
    point: dict[str, object],
    row: Row,
) -> bool:
    """Whether a row repeats the times of an earlier one, perhaps rounded to hundredths of a millisecond: one of
    aiconfigurator's collections republishes runs of another."""
    key = (*about, *sorted((name, value) for name, value in point.items() if name != "seconds"))
    times = float(row["ttft_ms"]), 1e3 * float(str(point["seconds"]))
    known = seen.setdefault(key, [])
    if any(abs(times[0] - other[0]) < ROUNDED_MS and abs(times[1] - other[1]) < ROUNDED_MS for other in known):
        return True
    known.append(times)
    return False


def fuses_norms(source: str, gpu: str, model: str, version: str, ranks: int) -> bool:
    """Whether the engine ran all-reduces and norms in one kernel: the launch scripts of the benchmark say so (those of
    the B200 and B300, and of Kimi anywhere), or it is vLLM's default (from 0.17 on; cloudrift's "latest" are later)."""
    if ranks == 1 or source not in ("aiconfigurator_silicon", "cloudrift"):
        return False
    part = version.split(".")
    late = version == "latest" or (len(part) > 1 and part[0] == "0" and int(part[1]) >= 17)
    return late or gpu.startswith(("b200", "b300", "gb")) or "Kimi" in model


def note(row: Row, pattern: str, default: str = "") -> str:
    found = re.search(pattern, row["notes"])
    return found.group(1) if found else default


def static_batch(row: Row) -> dict[str, object] | str:
    milliseconds = row["e2e_ms"] or row["ttft_ms"]
    if not milliseconds:
        return "no time"
    return point("batch", int(float(row["tp"])), row["input_len"], row["output_len"], row["concurrency"], milliseconds)


def energy(row: Row) -> dict[str, object] | str:
    task = note(row, r"task=([\w-]+)") or row["notes"].split()[0]
    if not row["tpot_ms"]:
        return "no time"
    if note(row, r"DP=(\d+)", "1") != "1" or note(row, r"PP=(\d+)", "1") != "1":
        return "data or pipeline parallel"
    p90 = note(row, r"p90/p99 ITL=([\d.]+)")
    if p90 and float(p90) > UNSTEADY * float(row["tpot_ms"]):
        return "unsteady time between tokens"
    # Experts are spread over all GPUs of a row ("EP"), whose attention is tensor-parallel.
    ranks = max(int(float(row["tp"])), int(float(row["num_gpus"])))
    measure = "itl" if row["source"] == "mlenergy_v3" else "tpot"
    return point(
        measure,
        ranks,
        ASSUMED_INPUT[task],
        row["output_len"],
        row["concurrency"],
        row["tpot_ms"],
        note(row, r"EP=(\d+)", "1"),
    )


def loaded(row: Row) -> dict[str, object] | str:
    notes = row["notes"]
    if not row["tpot_ms"] or not float(row["tpot_ms"]):
        return "no time"
    if "disagg" in notes or note(row, r"attention_dp_size=(\d+)", "1") != "1" or note(row, r"pp=(\d+)", "1") != "1":
        return "disaggregated, data or pipeline parallel"
    if "LoRA=on" in notes:
        return "adapters loaded"
    concurrency = max(1.0, float(row["concurrency"]) / float(note(row, r"replicas=(\d+)", "1")))
    scale = 0.9 if row["source"] == "aiconfigurator_silicon" else 1.0  # lengths drawn from 0.8 to 1.0
    sizes = [scale * float(row[name]) for name in ("input_len", "output_len")]
    if concurrency > 256 or (row["source"] == "cloudrift" and concurrency * sum(sizes) > 120_000):
        return "batch limited by memory"
    experts = note(row, r"moe_ep_size=(\d+)", "1")
    if "--enable-expert-parallel" in notes:
        experts = str(int(float(row["tp"])))
    return point("tpot", int(float(row["tp"])), *sizes, concurrency, row["tpot_ms"], experts)


def point(
    measure: str,
    ranks: int,
    prompt: float | str,
    output: float | str,
    concurrency: float | str,
    milliseconds: str,
    expert_parallel: str = "1",
) -> dict[str, object]:
    return {
        "tensor_parallel": ranks,
        "expert_parallel": expert_parallel,
        "measure": measure,
        "prompt_tokens": round(float(prompt)),
        "output_tokens": max(1, round(float(output))),
        "concurrency": short(float(concurrency)),
        "seconds": short(float(milliseconds) / 1e3),
    }


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/measured")
    measured = parser.parse_args(list(arguments) if arguments is not None else None).shared / "data" / "measured"
    out = Tables()
    kernels = measured / "kernels"
    aiconfigurator(kernels / "aiconfigurator_vllm", out)
    in_engine(kernels / "llmservingsim", out)
    apart(kernels / "llmservingsim", out)
    plain_layers(kernels / "llmservingsim", out)
    vidur(kernels / "vidur", out)
    from kvsim.architecture import models

    serving(measured / "e2e", set(models()), out)
    out.write(Path(__file__).resolve().parent.parent / "profiles" / "measurements")


if __name__ == "__main__":
    main()
