"""Kernel coefficients of one GPU from its kernel tables, one function a table.

Each returns the coefficients it could fit and the errors of what it predicts; a table without rows for the
GPU gives nothing. The forms are those of ``kvsim.terms``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..calibration import CACHE_FORMATS, KERNEL_FORMATS, TENSOR_PARALLEL
from ..hardware import Gpu
from ..law import device_of
from ..terms import LOGIT_BYTES, Product, beyond_cache
from .attention_kernels import decode_attention, latent_attention, mixed_attention, prefill_attention
from .findings import COLD, FLOOR, MOST_ROWS, Findings, Rows, by_regime, groups_of, parameter, sources
from .measurements import Measurements, Table
from .robust import Array, fit

WEIGHT_BYTES: Mapping[str, float] = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625, "packed": 0.52, "mxfp4": 0.53}
"""Bytes per weight in the tables, scales included (packed: int4 in groups of 128)."""

LUKEWARM = 0.25
"""As :data:`~kvsim.calibrate.findings.COLD`, for products of 4-bit weights: even from the cache they read slower than
memory could give, so that the kernel decides, and few of their shapes are larger than a cache."""

DISTURBED = 1.15
"""By what factor a row may exceed one with more work before it counts as disturbed."""

STARTS = {"compute": 0.5, "memory": 0.8, "tile": 8.0}


def kernel_findings(gpu: Gpu, measurements: Measurements) -> Findings:
    """Everything that the kernel tables say about a GPU."""
    found = Findings()
    for fmt in KERNEL_FORMATS["gemm"]:
        _gemm(gpu, measurements.table("gemm", gpu.id), fmt, found)
    for fmt in KERNEL_FORMATS["experts"]:
        _experts(gpu, measurements.table("experts", gpu.id), fmt, found)
    for fmt in CACHE_FORMATS:
        decode_attention(gpu, measurements.table("decode_attention", gpu.id), fmt, found)
        prefill_attention(gpu, measurements.table("prefill_attention", gpu.id), fmt, found)
    mixed_attention(
        gpu,
        measurements.table("mixed_attention", gpu.id),
        measurements.table("mixed_attention_apart", gpu.id),
        found,
    )
    latent_attention(gpu, measurements.table("latent_decode", gpu.id), found)
    for ranks in TENSOR_PARALLEL:
        _all_reduce(measurements.table("all_reduce", gpu.id), ranks, found)
    _elementwise(gpu, measurements.table("elementwise", gpu.id), found)
    _sampler(gpu, measurements.table("sampler", gpu.id), found)
    return found


def _peak(gpu: Gpu, fmt: str) -> float | None:
    return device_of(gpu).peak.get("bf16" if fmt in ("packed", "mxfp4") else fmt)


def _gemm(gpu: Gpu, table: Table, fmt: str, found: Findings) -> None:
    peak, name = _peak(gpu, fmt), f"gemm_{fmt}"
    size = table["n"] * table["k"] * WEIGHT_BYTES[fmt]
    cold = (size >= (COLD if fmt != "fp4" else LUKEWARM) * gpu.l2_bytes) | (table["tokens"] >= 1024)
    table = undisturbed(table.where((table["format"] == fmt) & cold), ("source", "n", "k")).every(MOST_ROWS)
    if not len(table) or peak is None:
        return
    tokens, n, k = (table[column] for column in ("tokens", "n", "k"))

    plain = found.coefficients.get("gemm_bf16_memory")
    shared = {} if plain is None or fmt in ("bf16", "fp4") else {"memory": plain.value}

    def model(values: Mapping[str, float], rows: Rows) -> Array:
        product = _product({**shared, **values}, peak, gpu, fmt)
        return values["floor_s"] + product.dense_s(tokens[rows], n[rows], k[rows])

    fitted = [part for part in ("compute", "memory") if part not in shared]
    parameters = {part: parameter(f"{name}_{part}", STARTS[part]) for part in fitted}
    parameters["floor_s"] = FLOOR
    groups = groups_of(table, ("n", "k"), "tokens")
    result = fit(model, table["us"] / 1e6, groups, parameters)
    found.add(f"{name}_", result, sources(table), name)
    if "memory" in shared and plain is not None:
        # Weights of a byte stream as those of two do: their tables hardly tell the rate from starting a kernel.
        # (Weights of four bits, with scales beside them, are slower.)
        found.coefficients[f"{name}_memory"] = replace(plain, source=f"as gemm_bf16_memory; {plain.source}")
    if fmt == "bf16":
        by_regime(found, result, tokens >= 512, groups)


def undisturbed(table: Table, shape: tuple[str, ...]) -> Table:
    """The rows that take no longer than one of the same shape with more tokens: more work is never faster, so the
    others waited for something else. (Of B200's fp8 products half do, for up to twice the time.)"""
    if not len(table):
        return table
    keys, keep = table.keys(*shape), np.ones(len(table), dtype=bool)
    for key in set(keys.tolist()):
        rows = np.flatnonzero(keys == key)
        rows = rows[np.argsort(-table["tokens"][rows], kind="stable")]
        keep[rows] = table["us"][rows] <= DISTURBED * np.minimum.accumulate(table["us"][rows])
    return table.where(keep)


def _experts(gpu: Gpu, table: Table, fmt: str, found: Findings) -> None:
    peak, name = _peak(gpu, fmt), f"experts_{fmt}"
    size = table["count"] * table["hidden"] * table["intermediate"] * 3 * WEIGHT_BYTES[fmt]
    # How many experts another routing touches is not said; evenly dealt tokens touch as many as they can.
    dealt = table["routing"] == "balanced"
    cold = (size >= COLD * gpu.l2_bytes) & (table["format"] == fmt)
    table = undisturbed(table.where(cold & dealt), ("count", "per_token", "hidden", "intermediate")).every(MOST_ROWS)
    if not len(table) or peak is None:
        return
    shape = [table[column] for column in ("tokens", "count", "per_token", "hidden", "intermediate")]

    def model(values: Mapping[str, float], rows: Rows) -> Array:
        tokens, count, per_token, hidden, intermediate = (column[rows] for column in shape)
        product = _product(values, peak, gpu, fmt)
        touched = np.minimum(count, tokens * per_token)
        return values["floor_s"] + product.experts_s(tokens, count, per_token, hidden, intermediate, touched)

    parameters = {part: parameter(f"{name}_{part}", STARTS[part]) for part in STARTS}
    parameters["floor_s"] = FLOOR
    groups = table.keys("count", "per_token", "hidden", "intermediate")
    found.add(f"{name}_", fit(model, table["us"] / 1e6, groups, parameters), sources(table), name)


def _product(values: Mapping[str, float], peak: float, gpu: Gpu, fmt: str) -> Product:
    return Product(
        compute=values["compute"] * peak,
        memory=values["memory"] * gpu.memory_bandwidth_byte_per_s,
        weight_bytes=WEIGHT_BYTES[fmt],
        tile=values.get("tile", 0.0),
    )


def _all_reduce(table: Table, ranks: int, found: Findings) -> None:
    table = table.where((table["ranks"] == ranks) & (table["bytes"] >= 1024))
    if not len(table):
        return
    name = f"all_reduce_{ranks}"

    def model(values: Mapping[str, float], rows: Rows) -> Array:
        small, large = (
            values[f"{size}latency_s"] + table["bytes"][rows] / values[f"{size}bytes_per_s"] for size in ("", "large_")
        )
        return np.asarray(np.minimum(small, large))

    parameters = {
        "latency_s": parameter(f"{name}_latency_s", 6e-6),
        "bytes_per_s": parameter(f"{name}_bytes_per_s", 4e10),
        "large_latency_s": parameter(f"{name}_large_latency_s", 2e-5),
        "large_bytes_per_s": parameter(f"{name}_large_bytes_per_s", 2e11),
    }
    found.add(f"{name}_", fit(model, table["us"] / 1e6, table.keys("bytes"), parameters), sources(table), name)


def _elementwise(gpu: Gpu, table: Table, found: Findings) -> None:
    table = table.where(table["bytes"] >= COLD * gpu.l2_bytes)
    if not len(table):
        return
    through_memory = beyond_cache(table["bytes"], gpu.l2_bytes)

    def model(values: Mapping[str, float], rows: Rows) -> Array:
        rate = values["elementwise_memory"] * gpu.memory_bandwidth_byte_per_s
        return np.asarray(values["floor_s"] + through_memory[rows] / rate)

    parameters = {"elementwise_memory": parameter("elementwise_memory", 0.8), "floor_s": FLOOR}
    result = fit(model, table["us"] / 1e6, table.keys("bytes"), parameters)
    found.add("", result, sources(table), "elementwise")


def _sampler(gpu: Gpu, table: Table, found: Findings) -> None:
    if not len(table) or "elementwise_memory" not in found.coefficients:
        return
    rate = found.coefficients["elementwise_memory"].value * gpu.memory_bandwidth_byte_per_s
    read_s = beyond_cache(table["sequences"] * table["vocabulary"] * LOGIT_BYTES, gpu.l2_bytes) / rate
    # What is launched differs by model: 25 us for one, 11 for another.
    names, launches = np.unique(table["vocabulary"], return_inverse=True)
    floors = [f"floor_{number}_s" for number in range(len(names))]

    def model(values: Mapping[str, float], rows: Rows) -> Array:
        floor_s = np.array([values[name] for name in floors])[launches[rows]]
        return np.asarray(floor_s + values["sampler_passes"] * read_s[rows])

    parameters = {"sampler_passes": parameter("sampler_passes", 2.0), **dict.fromkeys(floors, FLOOR)}
    groups = table.keys("sequences")
    found.add("", fit(model, table["us"] / 1e6, groups, parameters), sources(table), "sampler")
