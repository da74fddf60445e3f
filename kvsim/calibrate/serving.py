"""Engine overheads from serving points: what whole engines take beyond their kernels.

A point is a model under a load; the kernels' share of its time comes from ``kvsim.costs``, and the rest is
shared between the overheads of a step, a layer and a sequence. Where a GPU has no kernel tables of its own,
the points also scale what its relative's tables say about arithmetic and memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..architecture import Architecture
from ..calibration import LATER, OVERHEADS
from ..costs import GROUPS, Costs, Storage
from ..terms import Device, Rates
from .measurements import Table
from .robust import RESAMPLES, Array, Fit, Parameter, fit

CHUNK_TOKENS = 8192
"""Prefill of a static batch runs in steps of at most this many tokens."""

SCALES: Mapping[str, Parameter] = {
    "compute_scale": Parameter(1.0, 0.2, 1.5),
    "memory_scale": Parameter(1.0, 0.3, 1.3),
}

TYPICAL: Mapping[str, float] = {
    "step_s": 1e-3,
    "layer_s": 3e-5,
    "experts_s": 2e-5,
    "quantised_s": 1e-5,
    "ranks_s": 1e-4,
    "fused_s": 3e-6,
    "sequence_s": 1e-5,
    "reading": 1.0,
}
"""Overheads by order of magnitude: a millisecond of scheduling, some ten kernels of about 3 us a layer, attention
as the tables' kernels have it.
Points of few models cannot tell the overheads apart; then they stay near these (or near a better measured
GPU's)."""

NEXT_TO_NOTHING = 1e-9
"""Stands in for 0 times the time of reading, since rates are divided by it."""

LEASH = 0.7
"""Powers of e that an overhead may stray from what it is held near, for the price of one point 10 % off."""


class Prior(NamedTuple):
    """How tightly a generation's fit is held: leashes of overheads near those of another GPU and of how fast the cache
    is read, and how many of a model's points count as independent of each other, at most."""

    relative: float
    reading: float
    independent: float


PRIORS: Mapping[str, Prior] = {
    # Deployments of few models with settings of their own; one software, hosts of one kind.
    "vllm-1": Prior(relative=0.3, reading=0.1, independent=6),
}
UNTIED = Prior(relative=LEASH, reading=0.01, independent=float("inf"))
"""Of the first engine: grids of static batches of dense models, each machine's own."""


def engine_of(source: str, version: str) -> str:
    """The engine generation of a point, as its source states the version; overheads are fitted for each.

    vLLM's first engine ran its server and its scheduler in one process, so that serving over HTTP slowed its
    steps; offline and served points of it are apart. The second (V1, from 0.8 on) has a process for each.
    """
    if source in ("argonne_llm_inference_bench", "qwen_speed_benchmark"):
        return "vllm-0-offline"
    first = version.removeprefix("v").split(".")
    old = first[0] == "0" and len(first) > 1 and first[1].isdigit() and int(first[1]) < 8
    return "vllm-0-server" if old else "vllm-1"


@dataclass(frozen=True, slots=True)
class Load:
    """Points of one model, formats and number of ranks, as arrays."""

    architecture: Architecture
    quantization: str
    cache: str
    tensor_parallel: int
    fused: bool
    rows: npt.NDArray[np.intp]
    prompt: Array
    output: Array
    concurrency: Array
    measure: npt.NDArray[np.str_]

    @property
    def cache_dtype(self) -> str:
        """The KV cache's, by vLLM's name."""
        return "fp8" if self.cache == "fp8" else self.architecture.dtype


def loads(table: Table) -> list[Load]:
    """A serving table by deployment."""
    keys = table.keys("model", "quantization", "cache", "tensor_parallel", "fused")
    out = []
    for key in sorted(set(keys.tolist())):
        rows = np.flatnonzero(keys == key)
        first = rows[0]
        out.append(
            Load(
                Architecture.load(str(table["model"][first])),
                str(table["quantization"][first]),
                str(table["cache"][first]),
                int(table["tensor_parallel"][first]),
                bool(table["fused"][first]),
                rows,
                table["prompt_tokens"][rows],
                table["output_tokens"][rows],
                table["concurrency"][rows],
                table["measure"][rows],
            )
        )
    return out


def seconds(load: Load, rates: Rates, pick: npt.NDArray[np.bool_] | None = None) -> Array:
    """What the law expects for a load's points.

    "batch": prefill of the whole batch in full steps, then ``output - 1`` decode steps at the mean context.
    "itl": one decode step. "tpot": one decode step plus the share of the others' prefills that a closed loop
    puts between two tokens.
    """
    pick = np.ones(len(load.rows), dtype=bool) if pick is None else pick
    storage = Storage.of(load.architecture.weight_format(load.quantization), load.cache_dtype)
    costs = Costs(load.architecture, load.tensor_parallel, storage, rates, load.fused)
    prompt, output, sequences = load.prompt[pick], load.output[pick], load.concurrency[pick]
    measure = load.measure[pick]
    decode = decode_step(costs, sequences, prompt + output / 2)
    attention = chunk_attention(costs, prompt)
    steps = np.ceil(sequences * prompt / CHUNK_TOKENS)
    prefill = steps * costs.step_s(sequences * prompt / steps) + sequences * attention + costs.sequences_s(sequences)
    extra = costs.step_s(sequences + prompt) - costs.step_s(sequences) + attention
    batch = prefill + (output - 1) * decode
    return np.select(
        [measure == "batch", measure == "itl", measure == "tpot"],
        [batch, decode, decode + sequences / output * extra],
    )


def _linear(
    parts: Sequence[Load], values: Mapping[str, float], device: Device, names: Sequence[str], points: int
) -> tuple[Array, Array]:
    """Seconds of each point without overheads, and how often each overhead is in it: times are linear in them."""
    everything, nothing = np.ones(points, dtype=bool), {**dict.fromkeys(OVERHEADS, 0.0), "reading": NEXT_TO_NOTHING}

    def at(overheads: Mapping[str, float]) -> Array:
        return _expected(parts, Rates({**values, **overheads}, device), everything)

    kernels = at(nothing)
    return kernels, np.stack([at({**nothing, name: 1.0}) - kernels for name in names], axis=1)


def expectations(table: Table, values: Mapping[str, float], device: Device) -> Array:
    """:func:`seconds` of each point of a table."""
    return _expected(loads(table), Rates(values, device), np.ones(len(table), dtype=bool))


def _expected(parts: Sequence[Load], rates: Rates, wanted: npt.NDArray[np.bool_]) -> Array:
    everything = np.full(len(wanted), np.nan)
    for load in parts:
        pick = wanted[load.rows]
        if pick.any():
            everything[load.rows[pick]] = seconds(load, rates, pick)
    return everything


def decode_step(costs: Costs, sequences: Array, context: Array) -> Array:
    """Seconds of a step that decodes ``sequences``, each over ``context`` tokens."""
    reading = sum(
        costs.decode_s(group, sequences)
        * sequences
        * (np.minimum(context, costs.window()) if group == "window" else context)
        for group in GROUPS
    )
    return np.asarray(costs.step_s(sequences) + costs.sequences_s(sequences) + reading)


def chunk_attention(costs: Costs, new: Array) -> Array:
    """Seconds of attention of a fresh prompt of ``new`` tokens."""
    total = np.zeros_like(new)
    for group in GROUPS:
        seen = np.minimum(new, costs.window()) if group == "window" else new
        pairs = seen * (seen + 1) / 2 + (new - seen) * seen
        total += costs.pair_s(group) * pairs + costs.context_s(group) * new
    return total


def fits_in_memory(table: Table, memory_bytes: float) -> npt.NDArray[np.bool_]:
    """Whether a point's sequences fit into the KV cache together (weights and a tenth of ``memory_bytes``
    aside); where they do not, they ran in turns, which is the scheduler's doing and not the law's."""
    fitting = np.zeros(len(table), dtype=bool)
    for load in loads(table):
        weights = load.architecture.weight_bytes(load.quantization, tp=load.tensor_parallel)
        token = load.architecture.kv_bytes_per_token(load.cache_dtype, tp=load.tensor_parallel)
        held = load.concurrency * (load.prompt + np.where(load.measure == "batch", 1.0, 0.5) * load.output)
        fitting[load.rows] = held * token <= 0.9 * memory_bytes - weights
    return fitting


@dataclass(frozen=True, slots=True)
class ServingFit:
    """Overheads of one engine generation on one GPU, and the scales of inherited rates, if any."""

    engine: str
    result: Fit
    points: int


def fit_overheads(
    table: Table,
    values: Mapping[str, float],
    device: Device,
    engine: str,
    *,
    near: Mapping[str, float] = TYPICAL,
    scaled: bool = False,
    factors: Array | None = None,
    final: bool = True,
) -> ServingFit:
    """Fit an engine generation's overheads to serving points; each model is held out in turn.

    ``values`` are the kernel coefficients; ``near`` the overheads that the fit is held near; ``scaled``
    lets the points scale the coefficients' arithmetic and memory. ``factors`` multiply what :func:`seconds` expects of
    each point. Unless ``final``, intervals are left out.
    """
    parts = loads(table)
    models = table["model"]
    prior = PRIORS.get(engine, UNTIED)
    leash = LEASH if near == TYPICAL else prior.relative
    parameters = {
        name: Parameter(max(value, 1e-7), *OVERHEADS[name].bounds, leash=leash) for name, value in near.items()
    }
    parameters["reading"] = replace(parameters["reading"], leash=prior.reading)
    if scaled:
        parameters |= SCALES

    factors = np.ones(len(models)) if factors is None else factors
    linear = None if scaled else _linear(parts, values, device, tuple(parameters), len(models))

    def model(fitted: Mapping[str, float], rows: npt.NDArray[np.intp]) -> Array:
        if linear is not None:
            kernels, each = linear
            overheads = each[rows] @ np.array([fitted[name] for name in parameters])
            return np.asarray((kernels[rows] + overheads) * factors[rows])
        wanted = np.zeros(len(models), dtype=bool)
        wanted[rows] = True
        everything = _expected(parts, Rates(with_scales(values, fitted), device), wanted)
        return everything[rows] * factors[rows]

    count = {name: (models == name).sum() for name in set(models.tolist())}
    weights = np.array([1 / np.sqrt(count[name]) for name in models.tolist()])
    result = fit(
        model,
        table["seconds"],
        models,
        parameters,
        weights=weights / weights.mean() * min(1.0, prior.independent * len(count) / len(models)),
        leave_one_out=True,
        resamples=RESAMPLES if final else 0,
    )
    return ServingFit(engine, result, len(table))


def with_scales(values: Mapping[str, float], fitted: Mapping[str, float]) -> dict[str, float]:
    """Kernel coefficients with arithmetic and memory scaled and the overheads put in."""
    compute, memory = fitted.get("compute_scale", 1.0), fitted.get("memory_scale", 1.0)
    scaled = {
        name: value * (compute if name.endswith("_compute") else memory if name.endswith("_memory") else 1.0)
        for name, value in values.items()
    }
    return {**scaled, **{name: fitted.get(name, LATER.get(name, 0.0)) for name in OVERHEADS}}
