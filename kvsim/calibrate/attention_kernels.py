"""Attention's coefficients of one GPU from its tables of decode, prefill, mixed and latent kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..calibration import Coefficient
from ..hardware import Gpu
from ..terms import AttentionRates
from .coefficients import coefficient
from .findings import COLD, FLOOR, MOST_ROWS, Findings, Rows, by_regime, groups_of, parameter, sources
from .measurements import Table
from .robust import Array, Fit, fit, interval
from .tile_kernels import errors_by_tiles, has_tiles, mixed_by_tiles, prefill_by_tiles

CACHE_BYTES: Mapping[str, float] = {"bf16": 2.0, "fp8": 1.0}

LATENT_DIMS = 512 + 64, 512
"""Key and value dimensions of DeepSeek-V3's latent attention, which the latent tables were measured with."""


def decode_attention(gpu: Gpu, table: Table, fmt: str, found: Findings) -> None:
    read = table["sequences"] * table["context"] * table["kv_heads"] * 2 * table["dim"] * CACHE_BYTES[fmt]
    small = read <= 2e-6 * gpu.memory_bandwidth_byte_per_s
    cold = (read >= 2 * COLD * gpu.l2_bytes) | small
    table = table.where((table["cache"] == fmt) & cold & (table["window"] == 0)).every(MOST_ROWS)
    if not len(table):
        return
    sequences, context, heads, kv_heads, dim = (
        table[column] for column in ("sequences", "context", "heads", "kv_heads", "dim")
    )
    token_bytes = kv_heads * 2 * dim * CACHE_BYTES[fmt]

    def model(values: Mapping[str, float], rows: Rows) -> Array:
        rates = _attention(gpu, values)
        token_s = rates.decode_s(sequences[rows], heads[rows], kv_heads[rows], 2 * dim[rows], token_bytes[rows])
        own = values["floor_s"] + sequences[rows] * values["sequence_s"]
        return np.asarray(own + sequences[rows] * context[rows] * token_s)

    parameters = {
        "memory": parameter(f"decode_{fmt}_memory", 0.8),
        "spread": parameter(f"decode_{fmt}_spread", 1.0),
        "floor_s": FLOOR,
        "sequence_s": parameter("decode_sequence_s", 5e-8),
    }
    groups = groups_of(table, ("heads", "kv_heads", "dim"), "context")
    result = fit(model, table["us"] / 1e6, groups, parameters, weights=_balanced(context))
    name = f"decode_{fmt}"
    found.add(f"{name}_", result, sources(table), name)
    if fmt == "bf16":
        name = "decode_sequence_s"
        found.coefficients[name] = coefficient(
            name,
            result.values["sequence_s"],
            result.intervals["sequence_s"],
            sources(table),
            len(result.fitted),
        )
        by_regime(found, result, None, groups)


def prefill_attention(gpu: Gpu, table: Table, fmt: str, found: Findings) -> None:
    keep = (table["cache"] == fmt) & (table["window"] == 0) & (table["batch"] <= 2) & (table["new"] >= 16)
    table = table.where(keep)
    if not len(table):
        return
    own = table["source"] == "aiconfigurator"
    if own.any() and not own.all():  # neither source drowns the other
        parts = [table.where(own).every(MOST_ROWS // 2), table.where(~own).every(MOST_ROWS // 2)]
        table = Table({name: np.concatenate([part[name] for part in parts]) for name in table.columns})
    table = table.every(MOST_ROWS)
    batch, new, cached, heads, kv_heads, dim = (
        table[column] for column in ("batch", "new", "cached", "heads", "kv_heads", "dim")
    )
    pairs = batch * (new * cached + new * (new + 1) / 2)
    context = batch * (new + cached)
    reading = context * kv_heads * 2 * dim * CACHE_BYTES[fmt]
    shared, one_dim = {}, len(set(dim.tolist())) == 1
    if fmt != "bf16" and "prefill_softmax_dims" in found.coefficients:
        shared = {name: found.coefficients[f"prefill_{name}"].value for name in ("softmax_dims", "tile_rows")}

    def model(values: Mapping[str, float], rows: Rows) -> Array:
        rates = _attention(gpu, {**shared, **values})
        own_s = values["floor_s"] + pairs[rows] * rates.pair_s(heads[rows], 2 * dim[rows])
        return np.asarray(own_s + context[rows] * rates.walk_s(2 * dim[rows]) + reading[rows] / rates.decode_memory)

    parameters = {
        "compute": parameter(f"prefill_{fmt}_compute", 0.6),
        "floor_s": FLOOR,
    }
    if not shared:
        if not one_dim:  # one head size cannot tell the softmax from the products
            parameters["softmax_dims"] = parameter("prefill_softmax_dims", 30.0)
        parameters["tile_rows"] = parameter("prefill_tile_rows", 64.0)
    groups = table.keys("heads", "kv_heads", "dim", "new")
    result = fit(model, table["us"] / 1e6, groups, parameters)
    n = len(result.fitted)
    for short in parameters:
        if short != "floor_s":
            full = f"prefill_{fmt}_compute" if short == "compute" else f"prefill_{short}"
            found.coefficients[full] = coefficient(
                full, result.values[short], result.intervals[short], sources(table), n
            )
    if not shared and one_dim:
        among = f"{sources(table)}: one head size, softmax counted among its products"
        found.coefficients["prefill_softmax_dims"] = Coefficient(0.0, 0.0, 0.0, "fitted", among, n)
    found.fitted[f"prefill_{fmt}"], found.held_out[f"prefill_{fmt}"] = result.fitted, result.held_out
    if fmt == "bf16":
        by_regime(found, result, new >= 512, groups)
        if has_tiles(gpu):
            found.note("prefill_bf16_tiles", prefill_by_tiles(gpu, table, groups))


def mixed_attention(gpu: Gpu, table: Table, apart: Table, found: Findings) -> None:
    """Attention of steps that prefill a chunk over a cached prefix and decode beside it; ``apart`` are shapes that are
    predicted and not fitted."""
    table = table.every(MOST_ROWS)
    needed = {"prefill_bf16_compute", "decode_bf16_memory", "decode_sequence_s"}
    if not len(table) or not needed <= found.coefficients.keys():
        return
    names = {
        "compute": "prefill_bf16_compute",
        "memory": "decode_bf16_memory",
        "spread": "decode_bf16_spread",
    }
    names |= {name: f"prefill_{name}" for name in ("softmax_dims", "tile_rows")}
    known = {short: found.coefficients[name].value for short, name in names.items() if name in found.coefficients}
    rates = _attention(gpu, known)
    new, cached, sequences, context = (table[name] for name in ("new", "cached", "sequences", "context"))
    heads, kv_heads, dims = table["heads"], table["kv_heads"], 2 * table["dim"]
    token_bytes = kv_heads * dims * CACHE_BYTES["bf16"]
    pairs = new * cached + new * (new + 1) / 2
    chunk = pairs * rates.pair_s(heads, dims)
    chunk += (new + cached) * (rates.walk_s(dims) + token_bytes / rates.decode_memory)
    own = sequences * found.coefficients["decode_sequence_s"].value

    def model(values: Mapping[str, float], rows: Rows) -> Array:
        tiled = replace(rates, mixed_rows=values["mixed_tile_rows"])
        shape = (sequences[rows], heads[rows], kv_heads[rows], dims[rows], token_bytes[rows])
        read = sequences[rows] * (context[rows] + values["mixed_tile_keys"])
        return np.asarray(values["floor_s"] + own[rows] + chunk[rows] + read * tiled.mixed_s(*shape))

    parameters = {
        "mixed_tile_rows": parameter("mixed_tile_rows", 64.0),
        "mixed_tile_keys": parameter("mixed_tile_keys", 64.0),
        "floor_s": FLOOR,
    }
    groups = table.keys("heads", "kv_heads", "new", "cached")
    found.add("", fit(model, table["us"] / 1e6, groups, parameters), sources(table), "mixed_attention")
    if has_tiles(gpu):
        by_tiles = mixed_by_tiles(gpu, table, groups, rates.decode_memory)
        found.note("mixed_attention_tiles", by_tiles)
        if len(apart):
            unseen = errors_by_tiles(gpu, apart, rates.decode_memory, by_tiles.values)
            found.note("mixed_attention_tiles_apart", Fit({}, {}, np.array([]), unseen))


def latent_attention(gpu: Gpu, table: Table, found: Findings) -> None:
    """Arithmetic of latent attention, from the growth of its time with context where all heads are on one
    rank (the tables time a whole module, whose products do not grow with context)."""
    slopes = []
    for _, rows in table.where((table["heads"] == 128) & (table["sequences"] >= 16)).split("sequences"):
        order = np.argsort(rows["context"], kind="stable")
        context, seconds = rows["context"][order], rows["us"][order] / 1e6
        long = context >= 4096
        if long.sum() >= 2:
            slopes.extend(np.diff(seconds[long]) / np.diff(context[long]) / rows["sequences"][0])
    slopes = [slope for slope in slopes if slope > 0]
    if slopes:
        rates = 2 * 128 * sum(LATENT_DIMS) / np.array(slopes) / gpu.half_flop_per_s
        value = float(np.median(rates))
        found.coefficients["decode_latent_compute"] = coefficient(
            "decode_latent_compute", value, interval(value, rates.tolist()), sources(table), len(rates)
        )


def _attention(gpu: Gpu, values: Mapping[str, float]) -> AttentionRates:
    return AttentionRates(
        prefill_compute=values.get("compute", 1.0) * gpu.half_flop_per_s,
        softmax_dims=values.get("softmax_dims", 0.0),
        tile_rows=values.get("tile_rows", 0.0),
        multiprocessors=gpu.sm_count,
        decode_memory=values.get("memory", 1.0) * gpu.memory_bandwidth_byte_per_s,
        decode_compute=float("inf"),
        spread=values.get("spread", 0.0),
    )


def _balanced(values: Array) -> Array:
    """Weights that give each decade of ``values`` the same say."""
    decade = np.floor(np.log10(np.maximum(values, 1)))
    weights = np.ones(len(values))
    for name in set(decade.tolist()):
        weights[decade == name] = len(values) / (len(set(decade.tolist())) * (decade == name).sum())
    return weights
