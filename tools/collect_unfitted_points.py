"""Serving points that no fit takes: profiles/measurements/unfitted_points.csv.

    python tools/collect_unfitted_points.py --shared PATH

PATH holds ``data/measured``, as for tools/collect_measurements.py. Points of cards that have few, and loads whose
sequences may not all have run at once, are shown beside what the shipped calibrations predict
(docs/unfitted_points.md).
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from collect_measurements import GPUS, MODELS, QUANTIZATIONS, Row, loaded, note, rows, short

from kvsim.architecture import models
from kvsim.calibrate.unfitted_points import COLUMNS

CARDS = {
    "RTX-4090-24GB": "rtx-4090",
    "RTX-PRO-6000-Blackwell": "rtx-pro-6000",
    "L40S-48GB": "l40s",
    "RTX-3090-24GB": "rtx-3090",
    "A10G-24GB": "a10g",
    "A10-24GB": "a10",
    "RTX-5090-32GB": "rtx-5090",
    "H100-80GB-SXM": "h100-sxm",
    "H200-141GB-SXM": "h200-sxm",
    "B200-180GB-SXM": "b200-sxm",
}
FITTED = ("rtx-5090", "h100-sxm", "h200-sxm", "b200-sxm")
"""Cards whose other points are fitted; of these only what tools/collect_measurements.py leaves out."""

ALIASES = {
    **MODELS,
    "01-ai/Yi-1.5-34B-Chat": "01-ai/Yi-34B",
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": "Qwen/Qwen2.5-7B-Instruct",
    "cyankiwi/Qwen3.6-27B-AWQ-INT4": "Qwen/Qwen3.5-27B",
    "Qwen/Qwen3.6-27B-FP8": "Qwen/Qwen3.5-27B",
    "Qwen/Qwen3.6-35B-A3B-FP8": "Qwen/Qwen3.5-35B-A3B",
    "Qwen/Qwen3.6-35B-A3B": "Qwen/Qwen3.5-35B-A3B",
}
"""Qwen3.6 is taken to have the shapes of Qwen3.5 (its model cards say so; the configurations are not at hand)."""

FORMATS = {**QUANTIZATIONS, "unstated (bf16 likely)": "none"}


def cloudrift(row: Row) -> dict[str, object] | str:
    """``vllm bench serve`` with so many clients over so many replicas."""
    flags = row["notes"]
    if note(row, r"pp=(\d+)", "1") != "1":
        return "pipeline parallel"
    if "--enable-expert-parallel" in flags and float(row["tp"]) > 1:
        return "experts spread over ranks"
    replicas = int(note(row, r"replicas=(\d+)", "1"))
    clients = float(row["concurrency"]) / replicas
    if CARDS[row["gpu"]] in FITTED and isinstance(loaded(row), dict):
        return "fitted"
    if clients < 1:
        replicas, clients = 1, max(1.0, float(row["concurrency"]))  # one client, wherever it went
    return {
        "concurrency": round(clients),
        "requests": round(float(note(row, r"; n=(\d+)", "0")) / replicas),
        "cache": note(row, r"--kv-cache-dtype (\w+)", "bf16"),
        "max_model_len": note(row, r"--max-model-len (\d+)"),
        "max_num_seqs": note(row, r"--max-num-seqs (\d+)"),
        "ttft_s": row["ttft_ms"],
        "tpot_s": row["tpot_ms"],
    }


def llmperf(row: Row) -> dict[str, object] | str:
    """Its time between tokens is that of the whole request over its tokens."""
    whole = float(row["tpot_ms"]) * float(row["output_len"])
    return {"concurrency": round(float(row["concurrency"])), "ttft_s": row["ttft_ms"], "e2e_s": whole}


def plain(row: Row) -> dict[str, object] | str:
    """Clients in a closed loop; means of all three."""
    return {
        "concurrency": round(float(row["concurrency"])),
        "requests": note(row, r"n=(\d+)"),
        "ttft_s": row["ttft_ms"],
        "tpot_s": row["tpot_ms"],
    }


def excerpt(row: Row) -> dict[str, object] | str:
    """Pages and excerpts: those that state lengths and load."""
    if "ShareGPT" in row["input_len"] or not row["input_len"]:
        return "lengths or load not stated"
    if row["request_rate"] not in ("", "inf"):
        return {
            "request_rate": row["request_rate"],
            "requests": note(row, r"n=(\d+)"),
            "statistic": "median",
            "num_gpu_blocks": note(row, r"(\d+) GPU KV blocks"),
            "ttft_s": row["ttft_ms"],
            "tpot_s": row["tpot_ms"],
        }
    per_s, tokens_per_s = float(note(row, r"req/s=([\d.]+)")), float(row["output_tok_s"])
    return {
        "concurrency": row["concurrency"],
        "requests": note(row, r"(\d+) prompts"),
        "output_tokens": round(tokens_per_s / per_s),  # stopped early: not the 128 asked for
        "ttft_s": row["ttft_ms"],
        "e2e_s": 1e3 * float(row["concurrency"]) / per_s,  # Little's law
    }


def mooncake(row: Row) -> dict[str, object] | str:
    """Requests at a rate to one A10."""
    if "DISAGG" in row["notes"]:
        return "disaggregated"
    return {
        "request_rate": row["request_rate"],
        "requests": 200,
        "statistic": "median",
        "ttft_s": note(row, r"medTTFT=([\d.]+)"),
        "tpot_s": note(row, r"medTPOT=([\d.]+)"),
    }


READERS: dict[str, Callable[[Row], dict[str, object] | str]] = {
    "cloudrift": cloudrift,
    "philschmid_a10g": llmperf,
    "backprop_3090": plain,
    "misc_excerpts": excerpt,
    "mooncake_vllm_a10": mooncake,
}


def collected(folder: Path, dropped: Counter[str]) -> Iterator[dict[str, str]]:
    """A row for each point; why others are left out is counted."""
    known, seen = set(models()), set[tuple[str, ...]]()
    for source, reader in READERS.items():
        for row in rows(folder / f"{source}.csv"):
            gpu, model = CARDS.get(row["gpu"]), ALIASES.get(row["model"], row["model"])
            if gpu is None:
                if row["gpu"] not in GPUS:
                    dropped[f"{source}: GPU {row['gpu']}"] += 1
                continue
            found = reader(row) if model in known else f"model {row['model'] or 'not stated'}"
            if isinstance(found, str):
                dropped[f"{gpu}, {source}: {found}"] += 1
                continue
            times = {name: found.pop(name, "") for name in ("ttft_s", "tpot_s", "e2e_s")}
            point = {
                "gpu": gpu,
                "source": source,
                "engine": row["engine_version"] or "not stated",
                "model": model,
                "quantization": FORMATS[row["dtype"]],
                "cache": "bf16",
                "tensor_parallel": round(float(row["tp"] or 1)),
                "prompt_tokens": round(float(row["input_len"])),
                "output_tokens": round(float(row["output_len"])),
                "statistic": "mean",
                **found,
                **{name: short(float(str(value)) / 1e3) if value else "" for name, value in times.items()},
            }
            line = {name: str(point.get(name, "")) for name in COLUMNS}
            if (key := tuple(line.values())) in seen:
                dropped[f"{gpu}, {source}: the same figures again"] += 1
                continue
            seen.add(key)
            yield line


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/measured")
    shared = parser.parse_args(list(arguments) if arguments is not None else None).shared
    dropped: Counter[str] = Counter()
    lines = list(collected(shared / "data" / "measured" / "e2e", dropped))
    path = Path(__file__).resolve().parent.parent / "profiles" / "measurements" / "unfitted_points.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(f"{path.name}: {len(lines)} rows")
    for reason, count in sorted(dropped.items()):
        print(f"left out {count:5d}  {reason}")


if __name__ == "__main__":
    main()
