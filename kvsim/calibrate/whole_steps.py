"""Whole steps put together from layers that were timed inside vLLM, beside what the engine's tables say of them.

LLMServingSim timed every kernel of a layer at the same numbers of tokens: products, norms, attention of a chunk beside
decoding sequences, head and sampler. A step of a model is their sum over its layers. The tables are those of a
calibration without the engine's overheads; what starting the kernels of a layer takes is fitted to four fifths of the
chunks and predicted for the others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..architecture import Architecture
from ..calibration import OVERHEADS
from ..costs import Costs, Storage
from ..hardware import gpu as find_gpu
from ..law import device_of
from ..terms import ACTIVATION_BYTES, Rates
from .measurements import Measurements, Table
from .robust import Array, Fit, Parameter, fit
from .work import Content, Work

SOURCE = "llmservingsim"

MODELS: Mapping[str, tuple[str, ...]] = {
    "rtx-4090": ("meta-llama/Llama-3.1-8B-Instruct",),
    "rtx-pro-6000": ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-32B"),
}
"""Models of which each card has all layers, on one GPU."""


def whole_steps(gpu: str, model: str, measurements: Measurements, values: Mapping[str, float]) -> Fit:
    """Errors of steps by tables with these kernel coefficients."""
    architecture = Architecture.load(model)
    rows = _steps(architecture, measurements.table("mixed_attention", gpu))
    measured = _measured_s(architecture, gpu, measurements, rows)
    known = np.isfinite(measured)
    rows, measured = rows.where(known), measured[known]
    plain = {**values, **dict.fromkeys(OVERHEADS, 0.0), "reading": 1.0}
    costs = Costs(architecture, 1, Storage(), Rates(plain, device_of(find_gpu(gpu))))
    steps = [
        Content([(int(new), int(cached))], [float(context) + 1] * int(sequences))
        for new, cached, sequences, context in zip(
            *(rows[name].tolist() for name in ("new", "cached", "sequences", "context")), strict=True
        )
    ]
    kernels = Work.of([[step] for step in steps], 0).seconds(costs)

    def predicted(fitted: Mapping[str, float], picked: npt.NDArray[np.intp]) -> Array:
        return np.asarray(kernels[picked] + fitted["layer_s"] * architecture.num_layers)

    groups = rows.keys("new", "cached")
    return fit(predicted, measured, groups, {"layer_s": Parameter(3e-5, 1e-7, 1e-3)}, resamples=0)


def _steps(architecture: Architecture, table: Table) -> Table:
    """Rows of attention that are a model's."""
    group = architecture.attention_groups(1)[0]
    its = (table["heads"] == group.query_heads) & (table["kv_heads"] == group.kv_heads)
    return table.where(its & (table["source"] == SOURCE))


def _measured_s(architecture: Architecture, gpu: str, measurements: Measurements, rows: Table) -> Array:
    """The sum of a step's kernels; NaN beyond the tokens or sequences that were timed."""
    layers = architecture.num_layers
    tokens, sequences = rows["new"] + rows["sequences"], rows["sequences"] + 1
    gemms = _timed(measurements.table("gemm", gpu))
    total = layers * rows["us"]
    for gemm in architecture.gemms(1):
        product = gemms.where((gemms["n"] == gemm.n) & (gemms["k"] == gemm.k))
        total = total + gemm.layers * _at(tokens, product["tokens"], product["us"])
    head = architecture.head(1)
    product = gemms.where((gemms["n"] == head.vocabulary) & (gemms["k"] == head.hidden))
    total = total + _at(sequences, product["tokens"], product["us"])
    sampler = _timed(measurements.table("sampler", gpu))
    sampler = sampler.where(sampler["vocabulary"] == head.vocabulary)
    total = total + _at(sequences, sampler["sequences"], sampler["us"])
    between = _timed(measurements.table("elementwise", gpu))
    group = architecture.attention_groups(1)[0]
    inner = next(gemm.n // 2 for gemm in architecture.gemms(1) if gemm.name.endswith("gate_up"))
    for kernel, count, elements in (
        ("layernorm", 2, 4 * architecture.hidden_size),
        ("act_fn", 1, 3 * inner),
        ("rotary_emb", 1, 2 * (group.query_heads + group.kv_heads) * group.qk_dim),
    ):
        its = between.where(between["kernel"] == kernel)
        size = elements * ACTIVATION_BYTES
        whole = its["bytes"] % size == 0
        total = total + layers * count * _at(tokens, its["bytes"][whole] / size, its["us"][whole])
    return np.asarray(total / 1e6)


def _timed(table: Table) -> Table:
    return table.where(table["source"] == SOURCE)


def _at(counts: Array, timed: Array, us: Array) -> Array:
    """Times between those that were measured; NaN outside, or where nothing was."""
    if not len(timed):
        return np.full(len(counts), np.nan)
    names, place = np.unique(timed, return_inverse=True)
    means = np.bincount(place, us) / np.bincount(place)
    return np.interp(counts, names, means, left=np.nan, right=np.nan)
