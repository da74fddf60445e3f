"""PTE, prefill token equivalents: what a trajectory costs in units of one prefilled token (arXiv 2604.05404).

One unit, three readings, from what the paper prints to what a GPU takes:

- ``paper``: a turn costs L + gamma * L * D for L prompt and D output tokens. The whole context is prefilled anew in
  every turn. gamma = 2 * n_layers * d_model * HOI / N_active * H_kv / H_q, MLA with d_latent + d_rope for d_model,
  from the figures the paper prints for the cards and models it has. Other cards and models go by their profiles:
  dense 16-bit peak (the paper takes the sparse one of Ampere and later, which doubles gamma), active parameters with
  embeddings, of hybrid models the layers that have a KV cache.
- ``exact``: L - cached + gamma * (L * D + D * (D - 1) / 2), with ``cached`` from :func:`kvsim.estimate`. gamma is the
  time to read the KV bytes of one context token over that of 2 * N_active FLOPs, at the card's dense 16-bit peak and
  bandwidth. Windowed and sparse layers stop at their window. What a decode step costs at any context (weights,
  recurrent states) and quadratic attention are left out, as in the paper.
- ``calibrated``: the GPU-seconds of :func:`kvsim.estimate` over those of one prefill token on the same GPUs, alone.
  Under a load of n sequences a turn bears 1/n of each of its steps, so that even its prefill can cost less than L.

An output of 0 tokens is priced as 1, as everywhere in kvsim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from kvsim.architecture import Architecture, kv_element_bytes
from kvsim.backends import get
from kvsim.backends.interface import WeighsPte
from kvsim.backends.kernels import OK, prefill_time
from kvsim.backends.rates import rates
from kvsim.device import DeviceBatch, require_device
from kvsim.errors import InputError, UnknownNameError
from kvsim.hardware import Gpu
from kvsim.hardware import gpu as find_gpu
from kvsim.load import Load
from kvsim.metrics import _paper
from kvsim.pricing import Pricing, resolve_pricing

if TYPE_CHECKING:
    from pathlib import Path

    from kvsim.calibration import Calibration
    from kvsim.engine import EngineConfig
    from kvsim.estimation import Estimate
    from kvsim.trajectory import Batch

Floats = npt.NDArray[np.float64]
Reading = Literal["paper", "exact", "calibrated"]

READINGS: tuple[Reading, ...] = get_args(Reading)

MOST_READS = 8
"""Groups of layers that backends take which compute PTE themselves (kMostReads of csrc/pte.hpp)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pte:
    """PTE of a batch: ``turns`` (batch.turns,) and ``trajectories`` (len(batch),), float64.

    ``gamma`` is what reading one context token while decoding is worth, in prefill tokens; of windowed layers within
    their window; None in the calibrated reading, which has no single one. A turn that the engine cannot run, and
    its trajectory, are NaN (exact and calibrated). ``np.asarray`` gives the trajectories.
    """

    turns: Floats
    trajectories: Floats
    gamma: float | None
    reading: Reading

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.trajectories, dtype) if copy else np.asarray(self.trajectories, dtype)


@dataclass(frozen=True, slots=True)
class Read:
    """What decoding reads of one context token in some of the layers: its worth in prefill tokens, and the most
    tokens that a step reads (``window``, 0: all of them)."""

    gamma: float
    window: int = 0


@dataclass(frozen=True, slots=True)
class Weights:
    """A reading in numbers: what backends need that compute PTE themselves (csrc/pte.hpp)."""

    reading: int
    """Its place in READINGS."""
    reads: tuple[Read, ...] = ()
    """What decoding reads; the paper's gamma in its reading, which has one."""
    gpus: float = 1.0
    """GPUs that a second in the model occupies."""
    token_gpu_s: float = 1.0


def pte(
    batch: Batch | DeviceBatch,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    reading: str = "paper",
    load: Load | None = None,
    engine: EngineConfig | None = None,
    backend: str = "auto",
    calibration: str | Path | Calibration | None = None,
) -> Pte:
    """PTE of every turn and trajectory, in one of three readings (see the module).

    ``load`` (default: alone, nothing evicted), ``engine``, ``backend`` and ``calibration`` are as in
    :func:`kvsim.estimate`; the paper's reading knows none of them. Of a :class:`kvsim.DeviceBatch` the arrays are on
    the device. It also takes the paper's models that do not ship
    as profiles, by hub name. Raises UnknownNameError for an unknown reading, model or GPU, and in the other readings
    what ``estimate`` raises.
    """
    if reading not in READINGS:
        raise UnknownNameError("reading", reading, READINGS)
    if isinstance(batch, DeviceBatch):
        require_device(backend)
        pricing = None if reading == "paper" else resolve_pricing(model, gpu, engine, load, calibration)
        weights = Weights(0, (Read(paper_gamma(model, gpu)),)) if pricing is None else weights_of(pricing, reading)
        gamma = None if reading == "calibrated" else sum(read.gamma for read in weights.reads)
        return Pte(*on_device(batch, pricing, weights), gamma, reading)
    chosen = get(backend)
    if reading == "paper":
        gamma = paper_gamma(model, gpu)
        if isinstance(chosen, WeighsPte):
            turns = chosen.pte(None, batch.packed(chosen), Weights(0, (Read(gamma),)))
        else:
            turns = paper_turns(batch.prompt_tokens, batch.output_tokens, gamma)
        return _result(batch, turns, gamma, "paper")

    from kvsim.estimation import Estimate, require_clock  # which prices in this unit too

    pricing = resolve_pricing(model, gpu, engine, load, calibration)
    weights = weights_of(pricing, reading)
    if chosen.name == "cuda":
        _require_few(weights)
    if isinstance(chosen, WeighsPte) and len(weights.reads) <= MOST_READS:
        require_clock(batch, pricing)
        turns = chosen.pte(pricing.handle(chosen), batch.packed(chosen), weights)
    else:
        turns = turns_of_estimate(Estimate(batch, pricing, chosen), reading, weights.token_gpu_s)
    if reading == "exact":
        return _result(batch, turns, sum(read.gamma for read in weights.reads), "exact")
    return _result(batch, turns, None, "calibrated")


def weights_of(pricing: Pricing, reading: str) -> Weights:
    """The exact or the calibrated reading in numbers."""
    if reading == "exact":
        return Weights(READINGS.index("exact"), _reads(pricing))
    return Weights(READINGS.index("calibrated"), (), pricing.gpus_per_second, prefill_token_gpu_s(pricing))


def on_device(batch: DeviceBatch, pricing: Pricing | None, weights: Weights) -> tuple[Any, Any]:
    """PTE of turns and trajectories of a batch on the device, as arrays there; the paper's reading has no pricing."""
    from kvsim.estimation import require_clock

    if pricing is None:
        return batch.backend.resident_pte(None, batch.resident, weights)
    _require_few(weights)
    require_clock(batch, pricing)
    return batch.backend.resident_pte(pricing.handle(batch.backend), batch.resident, weights)


def _require_few(weights: Weights) -> None:
    """Refuse what a device does not take and the host does."""
    if len(weights.reads) > MOST_READS:
        raise InputError(
            f"the model's layers read {len(weights.reads)} different windows; on a device PTE takes {MOST_READS}",
            field="model",
            remedy='Price a kvsim.Batch with backend="native", or in another reading',
        )


def turns_of_estimate(estimate: Estimate, reading: str, token_gpu_s: float = 1.0) -> Floats:
    """PTE of every turn of an estimate, NaN where it was not priced.

    ``reading`` is ``"exact"`` or ``"calibrated"``; the latter counts in units of ``token_gpu_s`` (see
    :func:`prefill_token_gpu_s`).
    """
    if reading == "exact":
        batch = estimate.batch
        cached = estimate.columns.cached_tokens
        turns = exact_turns(batch.prompt_tokens, batch.output_tokens, cached, _reads(estimate.pricing))
    else:
        turns = estimate.turns["gpu_s"] / token_gpu_s
    return np.where(estimate.columns.status == OK, turns, np.nan)


def _reads(pricing: Pricing) -> tuple[Read, ...]:
    engine = pricing.engine
    ranks = engine.tensor_parallel_size
    return exact_reads(pricing.architecture, pricing.gpu, kv_cache_dtype=engine.kv_cache_dtype, ranks=ranks)


def paper_gamma(model: str | Architecture, gpu: str | Gpu) -> float:
    """The paper's gamma of a model on a card: from its tables, else by its formula from the profiles.

    A local config or a card of the user's own goes by its own figures, whatever its name.
    """
    hoi = _paper.hoi_of(gpu if isinstance(gpu, Gpu) else find_gpu(gpu))
    row = None if isinstance(model, Architecture) else _paper.decoder_of(model)
    if row is None:
        architecture = model if isinstance(model, Architecture) else Architecture.load(model)
        row = _paper.decoder_of(architecture.name) if architecture.kind != "local" else None
        if row is None:
            return _paper.gamma(_paper.kv_width_of(architecture), hoi, architecture.active_parameters)
    return _paper.gamma(row.kv_width, hoi, row.active_parameters)


def paper_turns(prompt_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike, gamma: float) -> Floats:
    """L + gamma * L * D for each turn."""
    prompt = np.asarray(prompt_tokens, np.float64)
    return prompt * (1 + gamma * _decoded(output_tokens))


def exact_reads(
    architecture: Architecture, gpu: Gpu, *, kv_cache_dtype: str = "bfloat16", ranks: int = 1
) -> tuple[Read, ...]:
    """The reads of one context token while decoding, by group of layers; their gammas add up.

    gamma = bytes a token * (FLOP/s / bytes/s) / (2 * N_active), the bytes of all tensor-parallel ranks: ranks that
    hold copies (more ranks than KV heads, MLA's latents) all read theirs, while they share the FLOPs. A sparse
    indexer's keys count too. Raises InputError for an unknown dtype or ranks that do not divide the heads.
    """
    element_bytes = kv_element_bytes(kv_cache_dtype)
    flop_per_byte = gpu.half_flop_per_s / gpu.memory_bandwidth_byte_per_s
    flop_per_token = 2 * architecture.active_parameters
    return tuple(
        Read(ranks * group.bytes_per_token(element_bytes) * flop_per_byte / flop_per_token, group.window)
        for group in architecture.attention_groups(ranks)
    )


def exact_turns(
    prompt_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    cached_tokens: npt.ArrayLike,
    reads: tuple[Read, ...],
) -> Floats:
    """L - cached + the sum over reads of gamma * (L * D + D * (D - 1) / 2) for each turn, windows respected."""
    prompt, decoded = np.asarray(prompt_tokens, np.float64), _decoded(output_tokens)
    costs = prompt - np.asarray(cached_tokens, np.float64)
    for read in reads:
        costs = costs + read.gamma * context_read(prompt, decoded, read.window)
    return costs


def context_read(prompt: Floats, decoded: Floats, window: int) -> Floats:
    """Context tokens read in ``decoded`` steps: the sum over k < decoded of prompt + k, or of the window if less."""
    growing = decoded if not window else np.clip(window - prompt, 0, decoded)
    return growing * prompt + growing * (growing - 1) / 2 + (decoded - growing) * window


def prefill_token_gpu_s(pricing: Pricing) -> float:
    """GPU-seconds of one prefill token under a pricing's law, the unit of the calibrated reading.

    It is the time of a step that prefills as many tokens of a fresh prompt as a step holds (max_num_batched_tokens,
    at most max_model_len), over those tokens, times the GPUs; so it holds their share of the step's overhead and of
    attention among themselves.
    """
    alone, step = rates(pricing.law, pricing.engine, Load())
    tokens = min(alone.chunk, alone.max_model_len)
    step_s = pricing.law.seconds(int(prefill_time(alone, step, 0, tokens)))
    return step_s * pricing.engine.tensor_parallel_size / tokens


def _decoded(output_tokens: npt.ArrayLike) -> Floats:
    return np.maximum(np.asarray(output_tokens, np.float64), 1.0)


def _result(batch: Batch, turns: Floats, gamma: float | None, reading: Reading) -> Pte:
    sums = np.bincount(batch.trajectory, weights=turns, minlength=len(batch))
    return Pte(turns, cast(Floats, sums), gamma, reading)
