"""What each shipped calibration rests on, and which evidence is not used and why: the tables of
docs/calibration_evidence.md."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path

from .._markdown import markdown_table
from ..calibration import CACHE_FORMATS, KERNEL_FORMATS, TENSOR_PARALLEL, Calibration, Coefficient
from .measurements import Measurements

KINDS: Mapping[str, Sequence[str]] = {
    **{f"products {fmt}": (f"gemm_{fmt}_compute",) for fmt in KERNEL_FORMATS["gemm"]},
    **{f"experts {fmt}": (f"experts_{fmt}_compute",) for fmt in KERNEL_FORMATS["experts"]},
    **{f"prefill {fmt}": (f"prefill_{fmt}_compute",) for fmt in CACHE_FORMATS},
    **{f"decode {fmt}": (f"decode_{fmt}_memory",) for fmt in CACHE_FORMATS},
    "latent attention": ("decode_latent_compute",),
    "beside a chunk": ("mixed_tile_rows",),
    **{f"all-reduce {ranks}": (f"all_reduce_{ranks}_bytes_per_s",) for ranks in TENSOR_PARALLEL},
    "norms, sampler": ("elementwise_memory",),
}
"""Kinds of kernels by the coefficients that tell where they come from."""

UNUSED: Mapping[str, Mapping[str, str]] = {
    "aiconfigurator_silicon": {"GB200": "disaggregated prefill and decoding"},
    "argonne_llm_inference_bench": {
        "Intel Max 1550": "no profile of this card",
        "Intel PVC GPU": "no profile of this card",
        "MI250": "no profile of this card",
    },
    "cloudrift": {"mi350x": "no profile of this card", "unknown": "card not stated"},
    "inferencex_token_position": {
        "H200-141GB-SXM": "medians of an experiment in progress, all models with experts over 8 ranks at once",
        "8xGPU unstated (GLM-5-FP8 TP8; H200 or B200)": "card not stated",
    },
    "kubeai_l4": {"L4-24GB": "mean of eight replicas behind proxies that differ by row; lengths of no request stated"},
    "misc_excerpts": {
        "2x RTX-5090-32GB": "lengths not stated",
        "A100": "which A100 and which lengths not stated",
        "A10G-24GB": "lengths not stated",
        "RTX-5060Ti-16GB": "no profile of this card",
        "RTX-5070Ti-16GB": "no profile of this card",
        "RTX-5090-32GB": "lengths not stated",
        "RTX-PRO-6000-Max-Q(300W)": "another power limit; lengths not stated",
    },
    "splitwise_perf_model": {
        "A100-80GB-SXM": "an engine of 2023 (vLLM about 0.2), whose overheads say nothing of later ones",
        "H100-80GB-SXM": "an engine of 2023 (vLLM about 0.2), whose overheads say nothing of later ones",
        "H100-80GB-SXM(power-capped)": "an engine of 2023, and another power limit",
    },
}
"""Serving points of which none is fitted or shown, by file and card, and why."""

UNUSED_KERNELS: Mapping[str, str] = {
    "nccl_perf except all_reduce": "the law has no other collective",
    "context_mla_perf, mla_context_module_perf": "prefill of latent attention is priced from the products that expand "
    "it; its tables time whole modules, products included",
    "gemm_perf, fp8_block": "its small products are bound by the CPU that launches them",
    "moe_perf, fp8 and power_law_1.2": "a fallback kernel that released fp8 models do not run; a routing whose experts "
    "touched are not stated",
    "derived_gemm_efficiency": "maxima of the tables above",
    "moe_perf of an A100": "uneven routing only, experts touched not stated; fitted to rows where all must be, "
    "Mixtral's 27 serving points on an A100-40 were predicted 21 % too long, with rates taken over 5 %",
    "skew": "attention over unequal contexts: 3 % dearer in the median than over equal ones of one sum, which the law "
    "prices alike",
    "Qwen3-30B-A3B moe": "one shape: where all experts are touched, within 6 % of the table of the same shape that is "
    "fitted; the other rows force tokens onto few experts",
    "v0__H100": "an older profiler of unfused layers; tables of vLLM's own kernels exist",
    "v0__RTX3090 tp2, attention rows": "unfused attention; the products on one GPU are used",
    "vidur a100, h100 mlp and network": "tables of vLLM's own kernels exist",
    "vidur a40 send_recv": "the law has no such transfer",
}
"""Kernel tables that are not used, and why."""


def rests_on(calibration: Calibration, measurements: Measurements, points: Counter[str]) -> list[str]:
    """A card's line: where it stands, what of its own it has, what it takes over, how sure it is."""
    name, own, taken = calibration.gpu, list[str](), dict[str, list[str]]()
    for kind, names in KINDS.items():
        part = calibration.coefficients[names[0]]
        if part.kind == "fitted":
            own.append(kind)
        elif part.kind == "inherited":
            taken.setdefault(_donor(part), []).append(kind)
    rows = sum(len(measurements.table(table, name)) for table in TABLES)
    steps = (measurements.folder / "engine_steps" / name).is_dir()
    said = {"measured": "measured", "inherited": f"datasheet only, as {calibration.relative}"}[calibration.kind]
    fitted = [
        f"{table['step_s'].n} points of {engine}"
        for engine, table in calibration.overheads.items()
        if table["step_s"].n
    ]
    if steps:
        fitted = ["whole steps of vLLM 0.32"]
    beside = [f"{points[name]} points shown, not fitted"] if points[name] else []
    spread = [
        f"{100 * (exp(part.q05) - 1):+.0f} to {100 * (exp(part.q95) - 1):+.0f} %"
        for part in (calibration.residuals["prefill"], calibration.residuals["decode"])
    ]
    return [
        name,
        said,
        "all kinds" if steps else (f"{_grouped(own)} ({rows:,} rows)" if own else "none"),
        "; ".join([*fitted, *beside]) or "none",
        "; ".join(f"{donor}: {_grouped(kinds)}" for donor, kinds in taken.items()) or "none",
        *spread,
    ]


TABLES = (
    "gemm",
    "experts",
    "prefill_attention",
    "decode_attention",
    "mixed_attention",
    "latent_decode",
    "all_reduce",
    "elementwise",
    "sampler",
)


def _donor(part: Coefficient) -> str:
    donor = part.source.partition(":")[0]
    return donor if " " not in donor else "own 16-bit"


def _grouped(kinds: Sequence[str]) -> str:
    """Kinds with one first word together."""
    groups: dict[str, list[str]] = {}
    for kind in kinds:
        first, _, rest = kind.partition(" ")
        groups.setdefault(first, []).append(rest)
    return ", ".join(f"{first} {' '.join(rest)}".strip() for first, rest in groups.items())


def card_table(calibrations: Sequence[Calibration], measurements: Measurements) -> str:
    """A line for each card."""
    with (measurements.folder / "unfitted_points.csv").open(newline="", encoding="utf-8") as file:
        points = Counter(row["gpu"] for row in csv.DictReader(file))
    head = ["card", "stands on", "own kernel tables", "whole engine", "taken over", "90 %: prefill", "decode"]
    return markdown_table([head, *(rests_on(one, measurements, points) for one in calibrations)])


def unused_table() -> str:
    """A line for each part of the evidence that no calibration uses."""
    lines = [["evidence", "why it is not used"]]
    for file, cards in UNUSED.items():
        reasons: dict[str, list[str]] = {}
        for card, why in cards.items():
            reasons.setdefault(why, []).append(card)
        lines += [[f"{file}: {', '.join(its)}", why] for why, its in reasons.items()]
    lines += [[f"kernel tables: {name}", why] for name, why in UNUSED_KERNELS.items()]
    return markdown_table(lines)


def unexplained(shared: Path, used: Mapping[str, set[str]]) -> list[str]:
    """Serving points under ``shared``/data/measured/e2e that are neither ``used`` (cards by file) nor explained."""
    missing = []
    for path in sorted((shared / "data" / "measured" / "e2e").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            cards = {row["gpu"] for row in csv.DictReader(file)}
        known = used.get(path.stem, set()) | set(UNUSED.get(path.stem, {}))
        missing += [f"{path.stem}: {card}" for card in sorted(cards - known)]
    return missing
