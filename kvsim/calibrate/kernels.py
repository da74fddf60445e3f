"""Kernel coefficients of one GPU from its kernel tables, one function a table.

Each returns the coefficients it could fit and the errors of what it predicts; a table without rows for the
GPU gives nothing. The forms are those of ``kvsim.terms``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibration import CACHE_FORMATS, KERNEL_FORMATS, QUANTITIES, TENSOR_PARALLEL, Coefficient, Regime
from ..hardware import Gpu
from ..law import device_of
from ..terms import LOGIT_BYTES, AttentionRates, Product, beyond_cache
from .measurements import Measurements, Table
from .robust import Array, Fit, Parameter, fit, held_out_groups, interval
from .tile_kernels import errors_by_tiles, has_tiles, mixed_by_tiles, prefill_by_tiles

Rows = npt.NDArray[np.intp]

MOST_ROWS = 4000
WEIGHT_BYTES: Mapping[str, float] = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625, "packed": 0.52, "mxfp4": 0.53}
"""Bytes per weight in the tables, scales included (packed: int4 in groups of 128)."""

CACHE_BYTES: Mapping[str, float] = {"bf16": 2.0, "fp8": 1.0}
LATENT_DIMS = 512 + 64, 512
"""Key and value dimensions of DeepSeek-V3's latent attention, which the latent tables were measured with."""

COLD = 1.0
"""Tables repeat one kernel on the same data. Where its data fit in this many times the L2 cache, they flatter
memory: in an engine every layer's are different. Such rows are left out unless arithmetic decides them."""

LUKEWARM = 0.25
"""The same for products of 4-bit weights: even from the cache they read slower than memory could give, so that the
kernel decides, and few of their shapes are larger than a cache."""

DISTURBED = 1.15
"""By what factor a row may exceed one with more work before it counts as disturbed."""

STARTS = {"compute": 0.5, "memory": 0.8, "tile": 8.0}

FLOOR = Parameter(5e-6, 0.0, 2e-4)
"""Starting and draining one kernel as the tables launched it: fitted along, not kept (see kvsim.terms)."""


@dataclass
class Findings:
    """What a GPU's tables say: coefficients by name, and log(measured / predicted) by table."""

    coefficients: dict[str, Coefficient] = field(default_factory=dict)
    fitted: dict[str, Array] = field(default_factory=dict)
    held_out: dict[str, Array] = field(default_factory=dict)
    regimes: dict[Regime, list[Array]] = field(default_factory=lambda: {"prefill": [], "decode": []})

    def add(self, prefix: str, result: Fit, source: str, table: str) -> None:
        """Take over a fit whose parameters are coefficients under ``prefix``."""
        for name, value in result.values.items():
            full = f"{prefix}{name}"
            if full in QUANTITIES:
                self.coefficients[full] = coefficient(full, value, result.intervals[name], source, len(result.fitted))
        self.note(table, result)

    def note(self, table: str, result: Fit) -> None:
        """Take over a fit's errors alone."""
        self.fitted[table], self.held_out[table] = result.fitted, result.held_out


def coefficient(name: str, value: float, low_high: tuple[float, float], source: str, n: int) -> Coefficient:
    """A fitted coefficient, cut to the digits its interval deserves and to its bounds."""
    least, most = QUANTITIES[name].bounds
    low, value, high = (min(most, max(least, float(f"{number:.5g}"))) for number in (low_high[0], value, low_high[1]))
    return Coefficient(value, min(low, value), max(high, value), "fitted", source, n)


def parameter(name: str, start: float) -> Parameter:
    """The search for a coefficient, within its physical bounds."""
    return Parameter(start, *QUANTITIES[name].bounds)


def kernel_findings(gpu: Gpu, measurements: Measurements) -> Findings:
    """Everything that the kernel tables say about a GPU."""
    found = Findings()
    for fmt in KERNEL_FORMATS["gemm"]:
        _gemm(gpu, measurements.table("gemm", gpu.id), fmt, found)
    for fmt in KERNEL_FORMATS["experts"]:
        _experts(gpu, measurements.table("experts", gpu.id), fmt, found)
    for fmt in CACHE_FORMATS:
        _decode(gpu, measurements.table("decode_attention", gpu.id), fmt, found)
        _prefill(gpu, measurements.table("prefill_attention", gpu.id), fmt, found)
    _mixed(
        gpu,
        measurements.table("mixed_attention", gpu.id),
        measurements.table("mixed_attention_apart", gpu.id),
        found,
    )
    _latent(gpu, measurements.table("latent_decode", gpu.id), found)
    for ranks in TENSOR_PARALLEL:
        _all_reduce(measurements.table("all_reduce", gpu.id), ranks, found)
    _elementwise(gpu, measurements.table("elementwise", gpu.id), found)
    _sampler(gpu, measurements.table("sampler", gpu.id), found)
    return found


def sources(table: Table) -> str:
    """Where the rows of a table come from."""
    return ", ".join(sorted(set(table["source"].tolist())))


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
    groups = _groups(table, ("n", "k"), "tokens")
    result = fit(model, table["us"] / 1e6, groups, parameters)
    found.add(f"{name}_", result, sources(table), name)
    if "memory" in shared and plain is not None:
        # Weights of a byte stream as those of two do: their tables hardly tell the rate from starting a kernel.
        # (Weights of four bits, with scales beside them, are slower.)
        found.coefficients[f"{name}_memory"] = replace(plain, source=f"as gemm_bf16_memory; {plain.source}")
    if fmt == "bf16":
        _by_regime(found, result, tokens >= 512, groups)


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


def _decode(gpu: Gpu, table: Table, fmt: str, found: Findings) -> None:
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
    groups = _groups(table, ("heads", "kv_heads", "dim"), "context")
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
        _by_regime(found, result, None, groups)


def _groups(table: Table, shape: tuple[str, ...], load: str) -> npt.NDArray[Any]:
    """The shape of each row; with fewer than ten shapes, the shape and its load."""
    groups = table.keys(*shape)
    return groups if len(set(groups.tolist())) >= 10 else table.keys(*shape, load)


def _balanced(values: Array) -> Array:
    """Weights that give each decade of ``values`` the same say."""
    decade = np.floor(np.log10(np.maximum(values, 1)))
    weights = np.ones(len(values))
    for name in set(decade.tolist()):
        weights[decade == name] = len(values) / (len(set(decade.tolist())) * (decade == name).sum())
    return weights


def _prefill(gpu: Gpu, table: Table, fmt: str, found: Findings) -> None:
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
        _by_regime(found, result, new >= 512, groups)
        if has_tiles(gpu):
            found.note("prefill_bf16_tiles", prefill_by_tiles(gpu, table, groups))


def _mixed(gpu: Gpu, table: Table, apart: Table, found: Findings) -> None:
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


def _latent(gpu: Gpu, table: Table, found: Findings) -> None:
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


def _by_regime(found: Findings, result: Fit, long: npt.NDArray[np.bool_] | None, groups: npt.NDArray[Any]) -> None:
    """Keep held-out errors for the intervals of whole steps: of long chunks for prefill, else for decode."""
    held = held_out_groups(groups)
    prefill = np.zeros(len(groups), dtype=bool) if long is None else long
    found.regimes["prefill"].append(result.held_out[prefill[held]])
    found.regimes["decode"].append(result.held_out[~prefill[held]])
