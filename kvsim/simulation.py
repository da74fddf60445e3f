"""``simulate``: many trajectories on shared engines, with vLLM's own decisions about who runs and what stays cached."""

from __future__ import annotations

import math
from collections.abc import Generator
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.arrivals import starts_of
from kvsim.backends.contexts import contexts_of, sealed, settings_of, step_law
from kvsim.backends.engine_kernels import (
    DROP,
    END,
    LEAST_LOADED,
    LRU,
    PREFIX_AWARE,
    ROUND_ROBIN,
    STICKY,
    Fleet,
    Served,
)
from kvsim.backends.eviction_log import EvictionLog
from kvsim.backends.interface import Ints
from kvsim.backends.kernels import OK, OVER_CAPACITY, OVER_MAX
from kvsim.backends.serving import Serve, serve, timeline_of
from kvsim.backends.workload import workload_of
from kvsim.errors import InputError, KvsimError, UnknownNameError
from kvsim.kv_groups import most_blocks, obstacle
from kvsim.pricing import require_price, resolve_pricing
from kvsim.retention import Policy, policy
from kvsim.retention.checks import checked
from kvsim.simulated import How, ReplicaRun, Simulation

if TYPE_CHECKING:
    from pathlib import Path

    from kvsim.architecture import Architecture
    from kvsim.calibration import Calibration
    from kvsim.engine import Engine, EngineConfig
    from kvsim.hardware import Gpu
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch

__all__ = ["ReplicaRun", "Simulation", "simulate"]

ROUTERS = {
    "round-robin": ROUND_ROBIN,
    "least-loaded": LEAST_LOADED,
    "sticky": STICKY,
    "prefix-aware": PREFIX_AWARE,
}
"""How turns find their replica, by name."""


class Wanted(NamedTuple):
    """What is to be served: inputs as :class:`kvsim.backends.serving.Serve` takes them."""

    inputs: tuple[Any, ...]
    log: EvictionLog | None


Stages = Generator[Wanted, tuple[Served, Ints], Simulation]
"""A simulation under way."""

MAX_REPLICAS = 10_000
MAX_BINS = 10_000_000


def simulate(
    batch: Batch,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    engine: EngineConfig | None = None,
    arrivals: str = "logged",
    retention: str | Policy = "lru",
    replicas: int = 1,
    router: str = "round-robin",
    speedup: float = 1.0,
    stagger_s: float = 0.0,
    timeline_s: float | None = None,
    timeline_bins: int | None = None,
    evictions: bool = False,
    seed: int = 0,
    backend: str = "auto",
    calibration: str | Path | Calibration | None = None,
    usd_per_hour: float | None = None,
    strict: bool = False,
) -> Simulation:
    """Serve every turn of a batch on one engine, or on replicas of it.

    arrivals: ``"logged"`` (each turn that waits for nobody at its ``arrival_ns``), ``"poisson:R"`` (R trajectory
        starts a second, from ``seed``), ``"closed:N"`` (N trajectories in flight, tool pauses included; when one ends
        the next in file order starts: also an RL rollout that refills), ``"batch:N"`` (N at a time, the next N when
        the slowest has ended: a synchronous rollout).
    retention: what happens to a turn's KV blocks while its tool runs: ``"lru"`` (vLLM's), ``"drop"``, ``"pin"``,
        ``"ttl:S"``, ``"continuum"``, ``"min-waste"``, ``"next-use"``, ``"offload:GiB@GB/s"``,
        ``"offload-lazy:GiB@GB/s"``, ``"belady"``, or an object with a method ``plan(batch, pricing)``
        (:mod:`kvsim.retention`).
    replicas, router: so many engines, and which one a turn goes to: ``"round-robin"`` (turn by turn),
        ``"least-loaded"`` (fewest unfinished requests), ``"sticky"`` (where its trajectory's first turn went, the
        least loaded then), ``"prefix-aware"`` (fewest blocks of prompts to come: those of its unfinished requests and
        those that the turn would not find cached there). The first of equals.
    speedup: logged arrivals come so many times as fast; pauses stay as they are.
    stagger_s: time between the first N starts of ``closed:N`` and ``batch:N``.
    timeline_s: length of the bins of :attr:`Simulation.timeline`; the run is then simulated twice.
    timeline_bins: in its place, how many bins there may be: each lasts 1, 2 or 5 times a power of ten.
    evictions: write down who evicted what, as :attr:`Simulation.evictions`.
    backend: ``"auto"``, ``"native"``, ``"numba"``, ``"reference"`` or ``"cuda"`` (for :func:`kvsim.sweep`: alone, a
        simulation is one thread's work on a device; no ``evictions``); all give the same bits.
    model, gpu, engine, calibration, usd_per_hour, strict: as :func:`kvsim.estimate` has them.

    The scheduler is vLLM 0.32's; with the engine's ``async_scheduling``, as on GPUs, it decides a step ahead, so that a
    turn that comes during a step runs in the second after it. Sliding windows have KV groups as in vLLM, with its
    default retention: of a window only what the end of a prompt needs stays cached, so that a later turn goes on from
    an earlier prompt's end, not from its output's. Models with linear attention, or whose windowed layers cache
    another amount a token than the others, are refused.
    Raises :class:`kvsim.errors.KvsimError` for unknown names, for what is not built yet, and for a model that does
    not fit.
    """
    asked = begin(
        batch,
        model=model,
        gpu=gpu,
        engine=engine,
        arrivals=arrivals,
        retention=retention,
        replicas=replicas,
        router=router,
        speedup=speedup,
        stagger_s=stagger_s,
        timeline_s=timeline_s,
        timeline_bins=timeline_bins,
        evictions=evictions,
        seed=seed,
        backend=backend,
        calibration=calibration,
        usd_per_hour=usd_per_hour,
        strict=strict,
    )
    return finished(asked, serve(backend))


def begin(
    batch: Batch,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    engine: EngineConfig | None = None,
    calibration: str | Path | Calibration | None = None,
    timeline_s: float | None = None,
    timeline_bins: int | None = None,
    evictions: bool = False,
    strict: bool = False,
    **how: Any,
) -> Stages:
    """A simulation up to where it is served, from arguments of :func:`simulate`."""
    require_price(how.get("usd_per_hour"))
    checked_how = how_of(**how)
    pricing = resolve_pricing(model, gpu, engine, None, calibration)
    require_servable(pricing)
    result = yield from stages(
        batch, pricing, checked_how, timeline_s=timeline_s, timeline_bins=timeline_bins, evictions=evictions
    )
    if strict:
        result.require_served()
        result.uncertainty.refuse_extrapolation()
    return result


def how_of(
    arrivals: str = "logged",
    retention: str | Policy = "lru",
    replicas: int = 1,
    router: str = "round-robin",
    speedup: float = 1.0,
    stagger_s: float = 0.0,
    seed: int = 0,
    backend: str = "auto",
    usd_per_hour: float | None = None,
) -> How:
    """What :func:`simulate` is asked for beside batch and pricing, checked."""
    fleet = _fleet(replicas, router)
    if not (math.isfinite(speedup) and speedup > 0):
        raise InputError(f"a speed-up of {speedup!r}", field="speedup", remedy="Use a number above 0")
    return How(arrivals, policy(retention), fleet, speedup, stagger_s, seed, backend, usd_per_hour)


def require_servable(pricing: Pricing) -> None:
    """Refuse what the engine cannot be simulated with."""
    require_kv_groups(pricing.architecture, pricing.engine)
    settled = pricing.engine
    if not settled.enable_chunked_prefill and settled.max_num_batched_tokens < settled.max_model_len:
        raise InputError(
            f"a prompt of max_model_len {settled.max_model_len} does not fit into a step of "
            f"{settled.max_num_batched_tokens} tokens",
            field="max_num_batched_tokens",
            remedy="Raise it, lower max_model_len, or enable chunked prefill",
        )


def run(batch: Batch, pricing: Pricing, how: How) -> Simulation:
    """The simulation of a batch for a pricing that the engine can be simulated with."""
    return finished(stages(batch, pricing, how), serve(how.backend))


def finished(simulation: Stages, serve_on: Serve) -> Simulation:
    """What a simulation comes to that is served there."""
    answer: tuple[Served, Ints] | None = None
    while True:
        try:
            wanted = simulation.send(answer)  # type: ignore[arg-type]  # the first is None
        except StopIteration as end:
            result: Simulation = end.value
            return result
        answer = serve_on(*wanted.inputs, log=wanted.log)


def stages(
    batch: Batch,
    pricing: Pricing,
    how: How,
    *,
    timeline_s: float | None = None,
    timeline_bins: int | None = None,
    evictions: bool = False,
) -> Stages:
    """A simulation that yields what is to be served, and is sent what that came to.

    Whoever goes through many of them can have them served together.
    """
    fleet, settled = how.fleet, pricing.engine
    status, refused = _admission(batch, settled)
    contexts = contexts_of(batch, settled.block_size)
    starts = starts_of(batch, how.arrivals, how.seed, how.stagger_s)
    workload = workload_of(batch, starts, refused, how.speedup)
    plan = checked(how.retention.plan(batch, pricing), batch, pricing)
    inputs = (settings_of(settled, DROP if plan.drop else LRU), step_law(pricing.law), contexts, workload, plan, fleet)
    timeline = timeline_of(fleet.replicas)
    log = EvictionLog() if evictions else None
    served, totals = yield Wanted((*inputs, timeline), log)
    if served.finish_ns.min(initial=0) == END:
        unserved = int(np.count_nonzero(served.finish_ns == END))
        raise KvsimError(
            f"{unserved} turns were never released: they wait for turns of trajectories that start after them. Order "
            "the file by dependency, or use logged arrivals."
        )
    if timeline_s is not None or timeline_bins is not None:
        end_ns = int(served.finish_ns.max(initial=0))
        if timeline_s is None:
            timeline_s = _round_bin_s(end_ns, timeline_bins, fleet.replicas)
        timeline = timeline_of(fleet.replicas, _bin_ns(timeline_s, end_ns, fleet.replicas), end_ns)
        yield Wanted((*inputs, timeline), None)
    return Simulation(batch, pricing, how, status, served, totals, timeline, log)


def _fleet(replicas: int, router: str) -> Fleet:
    if isinstance(replicas, bool) or not isinstance(replicas, int) or not 1 <= replicas <= MAX_REPLICAS:
        raise InputError(
            f"{replicas!r} replicas", field="replicas", remedy=f"Use a whole number from 1 to {MAX_REPLICAS}"
        )
    if router not in ROUTERS:
        raise UnknownNameError("router", router, ROUTERS)
    return Fleet(replicas, ROUTERS[router])


def _bin_ns(timeline_s: float, end_ns: int, replicas: int) -> int:
    """The length of a timeline's bins; raises InputError where there would be none or too many."""
    bin_ns = round(timeline_s * 1e9) if math.isfinite(timeline_s) else 0
    if bin_ns < 1 or end_ns // bin_ns * replicas >= MAX_BINS:
        raise InputError(
            f"bins of {timeline_s!r} seconds in a run of {end_ns / 1e9:.3g} seconds on {replicas} replicas",
            field="timeline_s",
            remedy=f"Use at least {end_ns / 1e9 * replicas / MAX_BINS:.3g} seconds: there may be {MAX_BINS:,} bins",
        )
    return bin_ns


def _round_bin_s(end_ns: int, bins: int | None, replicas: int) -> float:
    """The shortest of 1, 2 and 5 times powers of ten nanoseconds that divides a run into no more bins."""
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise InputError(f"{bins!r} bins", field="timeline_bins", remedy="Use a whole number of at least 1")
    bins = min(bins, MAX_BINS // replicas)
    lengths_ns = (step * 10**power for power in count() for step in (1, 2, 5))
    return int(next(length_ns for length_ns in lengths_ns if end_ns // length_ns < bins)) / 1e9


def require_kv_groups(architecture: Architecture, engine: Engine) -> None:
    """Refuse models whose KV cache vLLM keeps in ways that are not built."""
    reason = obstacle(architecture, engine.tensor_parallel_size)
    if reason:
        raise InputError(
            f"{architecture.name} cannot be simulated: {reason}",
            field="model",
            remedy="Use kvsim.estimate, or a model with full attention or equally wide sliding-window layers",
        )


def status_of(batch: Batch, engine: Engine) -> npt.NDArray[np.int8]:
    """Which turns the engine can serve, by code of :data:`STATUSES`; the cache by the bound that vLLM admits by."""
    tokens = batch.prompt_tokens + np.maximum(batch.output_tokens, 1)
    blocks = most_blocks(engine.windows, tokens - 1, engine.block_size, _in_flight(engine))
    over_capacity = np.where(blocks > engine.num_gpu_blocks - 1, OVER_CAPACITY, OK)
    return np.where(tokens > engine.max_model_len, OVER_MAX, over_capacity).astype(np.int8)


def _in_flight(engine: Engine) -> int:
    """Tokens of the steps under way."""
    return engine.max_num_batched_tokens * (2 if engine.async_scheduling else 1)


def _admission(batch: Batch, engine: Engine) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Status of each turn, and 1 for those that are not served; the same arrays whenever all are."""
    longest = batch.longest_context
    most = most_blocks(engine.windows, longest - 1, engine.block_size, _in_flight(engine))
    if longest > engine.max_model_len or most > engine.num_gpu_blocks - 1:
        status = status_of(batch, engine)
        return status, (status != OK).astype(np.int64)
    rows = batch.turns
    return batch.once("all served", None, lambda: sealed((np.full(rows, OK, np.int8), np.zeros(rows, np.int64))))
