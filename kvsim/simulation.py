"""``simulate``: many trajectories on one engine, with vLLM's own decisions about who runs and what stays cached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.backends.contexts import RETENTION, contexts_of, settings_of, step_law
from kvsim.backends.engine_kernels import ENGINE_TOTALS, Served
from kvsim.backends.kernels import OK, OVER_CAPACITY, OVER_MAX
from kvsim.backends.serving import serve
from kvsim.backends.workload import closed_starts, poisson_starts, workload_of
from kvsim.errors import InputError, KvsimError, UnknownNameError
from kvsim.kv_groups import most_blocks, obstacle
from kvsim.pricing import Pricing, require_price, resolve_pricing
from kvsim.result import STATUSES, Table, seconds

if TYPE_CHECKING:
    from pathlib import Path

    from kvsim.architecture import Architecture
    from kvsim.backends.interface import Ints
    from kvsim.calibration import Calibration
    from kvsim.engine import Engine, EngineConfig
    from kvsim.hardware import Gpu
    from kvsim.trajectory import Batch

__all__ = ["EngineRun", "Simulation", "simulate"]

Floats = npt.NDArray[np.float64]

PLANNED_RETENTION = ("pin", "ttl", "continuum", "min-waste", "next-use", "offload", "belady")
"""Policies that have a name but no implementation yet: refused, not approximated."""


def simulate(
    batch: Batch,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    engine: EngineConfig | None = None,
    arrivals: str = "logged",
    retention: str = "lru",
    replicas: int = 1,
    seed: int = 0,
    backend: str = "auto",
    calibration: str | Path | Calibration | None = None,
    usd_per_hour: float | None = None,
    strict: bool = False,
) -> Simulation:
    """Serve every turn of a batch on one engine.

    arrivals: ``"logged"`` (each turn that waits for nobody at its ``arrival_ns``), ``"poisson:R"`` (R trajectory
        starts a second, from ``seed``), ``"closed:N"`` (N trajectories in flight, tool pauses included; when one ends
        the next in file order starts).
    retention: ``"lru"`` is vLLM's; with ``"drop"`` a block that nobody holds is forgotten at once.
    backend: ``"auto"``, ``"native"``, ``"numba"`` or ``"reference"``; all give the same bits.
    model, gpu, engine, calibration, usd_per_hour, strict: as :func:`kvsim.estimate` has them.

    The scheduler is vLLM 0.32's, scheduling synchronously: with ``async_scheduling`` the real one decides a step ahead,
    so that a finished request's blocks come back one step later than here. Sliding windows have KV groups as in vLLM,
    with its default retention: of a window only what the end of a prompt needs stays cached, so that a later turn goes
    on from an earlier prompt's end, not from its output's. Models with linear attention, or whose windowed layers
    cache another amount a token than the others, are refused.
    Raises :class:`kvsim.errors.KvsimError` for unknown names, for what is not built yet, and for a model that does
    not fit.
    """
    if replicas != 1:
        raise InputError(f"{replicas!r} replicas: only one engine can be simulated", field="replicas", remedy="Use 1")
    require_price(usd_per_hour)
    policy = _retention(retention)
    run = serve(backend)
    pricing = resolve_pricing(model, gpu, engine, None, calibration)
    _require_kv_groups(pricing)
    settled = pricing.engine
    if not settled.enable_chunked_prefill and settled.max_num_batched_tokens < settled.max_model_len:
        raise InputError(
            f"a prompt of max_model_len {settled.max_model_len} does not fit into a step of "
            f"{settled.max_num_batched_tokens} tokens",
            field="max_num_batched_tokens",
            remedy="Raise it, lower max_model_len, or enable chunked prefill",
        )
    status = _status(batch, settled)
    starts = _starts(batch, arrivals, seed)
    contexts = contexts_of(batch, settled.block_size)
    workload = workload_of(batch, starts, (status != OK).astype(np.int64))
    served, totals = run(settings_of(settled, policy), step_law(pricing.law), contexts, workload)
    result = Simulation(batch, pricing, backend, status, served, totals, usd_per_hour)
    if result.engine.unserved_turns:
        raise KvsimError(
            f"{result.engine.unserved_turns} turns were never released: they wait for turns of trajectories that "
            "start after them. Order the file by dependency, or use logged arrivals."
        )
    if strict:
        result.require_served()
    return result


def _require_kv_groups(pricing: Pricing) -> None:
    """Refuse models whose KV cache vLLM keeps in ways that are not built."""
    reason = obstacle(pricing.architecture, pricing.engine.tensor_parallel_size)
    if reason:
        raise InputError(
            f"{pricing.architecture.name} cannot be simulated: {reason}",
            field="model",
            remedy="Use kvsim.estimate, or a model with full attention or equally wide sliding-window layers",
        )


@dataclass(frozen=True, slots=True)
class EngineRun:
    """What the engine did in all. Block counts are of one pool; ``hit_rate`` is cached over prompt tokens."""

    steps: int
    busy_s: float
    end_s: float
    evicted_blocks: int
    preemptions: int
    peak_blocks: int
    usable_blocks: int
    hit_rate: float
    unserved_turns: int


class Simulation:
    """What became of a batch on an engine: one value a trajectory here, one a turn in :attr:`turns`.

    Trajectories with a turn that was not served (see ``turns["status"]``) are NaN.
    """

    def __init__(
        self,
        batch: Batch,
        pricing: Pricing,
        backend: str,
        status: npt.NDArray[np.int8],
        served: Served,
        totals: Ints,
        usd_per_hour: float | None = None,
    ) -> None:
        self.batch = batch
        self.pricing = pricing
        self.backend = backend
        self.served = served
        """Whole nanoseconds and tokens, one value a turn."""
        self._status = status
        self._totals = dict(zip(ENGINE_TOTALS, totals.tolist(), strict=True))
        self._usd_per_hour = usd_per_hour

    @property
    def served_whole(self) -> npt.NDArray[np.bool_]:
        """Whether all turns of the trajectory were served, shape (trajectories,)."""
        return ~self._refused_trajectories

    @property
    def latency_s(self) -> Floats:
        """Last finish minus first arrival, tool pauses included (over the DAG of turns)."""
        first = np.full(len(self.batch), np.iinfo(np.int64).max)
        last = np.zeros(len(self.batch), np.int64)
        np.minimum.at(first, self.batch.trajectory, self.served.release_ns)
        np.maximum.at(last, self.batch.trajectory, self.served.finish_ns)
        return seconds(last - first, self._refused_trajectories)

    @property
    def model_s(self) -> Floats:
        """Time in the engine, queueing included: the sum of the turns' ``e2e_s``."""
        return self._sum(self.served.finish_ns - self.served.release_ns)

    @property
    def queue_s(self) -> Floats:
        """Time before the first step."""
        return self._sum(self.served.scheduled_ns - self.served.release_ns)

    @property
    def fresh_prefill_s(self) -> Floats:
        """Prefill of tokens that were never in the cache."""
        return self._sum(self._prefill_ns - self.served.recompute_ns)

    @property
    def recompute_s(self) -> Floats:
        """Prefill of tokens that had been in the cache and were evicted."""
        return self._sum(self.served.recompute_ns)

    @property
    def decode_s(self) -> Floats:
        """From the first token to the last, with what preemption cost in between."""
        return self._sum(self.served.finish_ns - self.served.first_token_ns)

    @property
    def gpu_s(self) -> Floats:
        """GPU-seconds: each step's time shared by tokens among its requests, x tensor_parallel_size."""
        return self._sum(self.served.gpu_ns) * self.pricing.engine.tensor_parallel_size

    @property
    def usd(self) -> Floats:
        """``gpu_s`` at the marketplace price of the GPU, NaN where there is none."""
        price = self._usd_per_hour if self._usd_per_hour is not None else self.pricing.gpu.usd_per_hour
        return self.gpu_s * ((float("nan") if price is None else price) / 3600)

    @property
    def joules(self) -> Floats:
        """``gpu_s`` x TDP: an upper bound of the GPU's energy, not a measurement."""
        return self.gpu_s * self.pricing.gpu.tdp_w

    @property
    def cached_tokens(self) -> Ints:
        """Prompt tokens found in the cache at each turn's first admission."""
        return self._sum_tokens(self.served.cached_tokens)

    @property
    def recomputed_tokens(self) -> Ints:
        """Prompt tokens that had been in the cache and were evicted."""
        return self._sum_tokens(self._recomputed_tokens)

    @cached_property
    def turns(self) -> Table:
        """One value a turn, rows as in the batch. Columns:

        ``ttft_s e2e_s queue_s fresh_prefill_s recompute_s decode_s pause_s release_s finish_s gpu_s`` (NaN where not
        served), ``cached_tokens recomputed_tokens preemptions`` (integers, -1 where not served) and ``status`` (text:
        ``ok``, ``over_max`` beyond max_model_len, ``over_capacity`` beyond the KV cache, by the bound that vLLM admits
        requests by).
        ``e2e_s`` is queue + fresh prefill + recompute + decode. ``release_s`` and ``finish_s`` count from the
        simulation's start; ``pause_s`` precedes the turn.
        """
        served = self.served
        refused = self._status != OK
        unknown = refused if refused.any() else None
        ranks = self.pricing.engine.tensor_parallel_size
        return Table(
            self.batch.turns,
            {
                "ttft_s": lambda: seconds(served.first_token_ns - served.release_ns, unknown),
                "e2e_s": lambda: seconds(served.finish_ns - served.release_ns, unknown),
                "queue_s": lambda: seconds(served.scheduled_ns - served.release_ns, unknown),
                "fresh_prefill_s": lambda: seconds(self._prefill_ns - served.recompute_ns, unknown),
                "recompute_s": lambda: seconds(served.recompute_ns, unknown),
                "decode_s": lambda: seconds(served.finish_ns - served.first_token_ns, unknown),
                "pause_s": lambda: seconds(self.batch.pause_ns, None),
                "release_s": lambda: seconds(served.release_ns, unknown),
                "finish_s": lambda: seconds(served.finish_ns, unknown),
                "gpu_s": lambda: seconds(served.gpu_ns * ranks, unknown),
                "cached_tokens": lambda: served.cached_tokens,
                "recomputed_tokens": lambda: self._recomputed_tokens,
                "preemptions": lambda: served.preemptions,
                "status": lambda: np.array(STATUSES)[self._status],
            },
        )

    @cached_property
    def engine(self) -> EngineRun:
        """Totals of the engine."""
        totals, ok = self._totals, self._status == OK
        prompt = int(self.batch.prompt_tokens[ok].sum())
        return EngineRun(
            steps=totals["steps"],
            busy_s=totals["busy_ns"] / 1e9,
            end_s=totals["end_ns"] / 1e9,
            evicted_blocks=totals["evicted_blocks"],
            preemptions=totals["preemptions"],
            peak_blocks=totals["peak_blocks"],
            usable_blocks=self.pricing.engine.num_gpu_blocks - 1,
            hit_rate=int(self.served.cached_tokens[ok].sum()) / prompt if prompt else 0.0,
            unserved_turns=totals["unserved"],
        )

    @cached_property
    def status_counts(self) -> dict[str, int]:
        """How many turns have each status, those with none left out."""
        counts = np.bincount(self._status, minlength=len(STATUSES))
        return {name: int(count) for name, count in zip(STATUSES, counts, strict=True) if count}

    def require_served(self) -> None:
        """Raise :class:`InputError` naming the first turn that was not served, if there is one."""
        refused = np.flatnonzero(self._status != OK)
        if not refused.size:
            return
        row = int(refused[0])
        tokens = int(self.batch.prompt_tokens[row] + self.batch.output_tokens[row])
        raise InputError(
            f"a turn of trajectory {self.batch.ids[self.batch.trajectory[row]]!r} (row {row}) has {tokens} tokens, "
            f"{STATUSES[self._status[row]].replace('_', ' ')}; so have {refused.size} turns",
            field="prompt_tokens",
            remedy="Choose a longer max_model_len, a model or GPU with more room, or leave out strict",
        )

    @property
    def _prefill_ns(self) -> Ints:
        return self.served.first_token_ns - self.served.scheduled_ns

    @cached_property
    def _recomputed_tokens(self) -> Ints:
        lost = np.maximum(self.served.hittable_tokens - self.served.cached_tokens, 0)
        return np.where(self._status == OK, lost, -1)

    @cached_property
    def _refused_trajectories(self) -> npt.NDArray[np.bool_]:
        refused = np.zeros(len(self.batch), bool)
        refused[self.batch.trajectory[self._status != OK]] = True
        return refused

    def _sum_tokens(self, column: Ints) -> Ints:
        sums = np.zeros(len(self.batch), np.int64)
        np.add.at(sums, self.batch.trajectory, np.where(self._status == OK, column, 0))
        return sums

    def _sum(self, nanoseconds: Ints) -> Floats:
        return seconds(self._sum_tokens(nanoseconds), self._refused_trajectories)


def _retention(name: str) -> int:
    if name in RETENTION:
        return RETENTION[name]
    if name.split(":")[0] in PLANNED_RETENTION:
        raise InputError(
            f"{name!r} is not built yet", field="retention", remedy="Use one of " + ", ".join(sorted(RETENTION))
        )
    raise UnknownNameError("retention policy", name, RETENTION)


def _starts(batch: Batch, arrivals: str, seed: int) -> Ints | None:
    """When trajectories start; None as logged."""
    kind, _, given = arrivals.partition(":")
    if kind == "logged" and not given:
        if len(batch) > 1 and not batch.arrival_ns.any():
            raise InputError(
                "the batch has no arrival times",
                field="arrivals",
                remedy='Use "poisson:R" (starts a second) or "closed:N" (trajectories in flight)',
            )
        return None
    try:
        if kind == "poisson" and 0 < float(given) < float("inf"):
            return poisson_starts(len(batch), float(given), seed)
        if kind == "closed" and int(given) > 0:
            return closed_starts(len(batch), int(given))
    except ValueError:
        pass
    raise InputError(
        f"{arrivals!r} is no pattern of arrivals", field="arrivals", remedy='Use "logged", "poisson:2.0" or "closed:64"'
    )


def _status(batch: Batch, engine: Engine) -> npt.NDArray[np.int8]:
    """Which turns the engine can serve, by code of :data:`STATUSES`."""
    tokens = batch.prompt_tokens + np.maximum(batch.output_tokens, 1)
    blocks = most_blocks(engine.windows, tokens - 1, engine.block_size, engine.max_num_batched_tokens)
    over_capacity = np.where(blocks > engine.num_gpu_blocks - 1, OVER_CAPACITY, OK)
    return np.where(tokens > engine.max_model_len, OVER_MAX, over_capacity).astype(np.int8)
