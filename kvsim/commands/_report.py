"""What ``kvsim report`` puts on its page: the result that was asked for, its facts, and what eviction would do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.commands._asked import Asked
from kvsim.commands._evidence import evidence_facts
from kvsim.commands._pricing_facts import priced_facts
from kvsim.commands._reading_facts import read_facts
from kvsim.estimation import Estimate, estimate
from kvsim.insight import attribute
from kvsim.report.page import Cliff, Page, Survival

if TYPE_CHECKING:
    from kvsim.simulation import Simulation
    from kvsim.trajectory import Batch

CLIFF_TURNS = 100_000
"""Up to so many turns the eviction cliff is searched for unless told."""

BINS = 1_500
"""A timeline has about so many bins."""

SURVIVALS = 40
"""So many times that KV survives are tried."""

ESTIMATE_LIMITS = (
    "An estimate leaves out queueing and preemption; --arrivals simulates an engine.",
    "The other sequences of the load only decode: their own prefills do not delay a turn.",
    "The idle time of a context that several turns extend counts in KV held once for each of them.",
)
SIMULATION_LIMITS = (
    "The scheduler is vLLM 0.32's; network, tokenisation and HTTP are left out.",
    "What requests hold at the same time counts in KV held for each of them.",
)
LIMITS = (
    "Tool pauses are those of the log: they do not change with the GPU.",
    "Tokens are those of the log: another model would have said other things.",
)


@dataclass(frozen=True)
class AskedPage(Asked):
    """The result that the options ask for, and whether its eviction cliff is wanted."""

    cliff: bool | None


def page_of(batch: Batch, asked: AskedPage) -> Page:
    """The page of a batch."""
    result = asked.priced(batch, strict=asked.strict)
    cliff, absent = _cliff(batch, asked)
    how, pricing = asked.fact(result), result.pricing
    own_limits = ESTIMATE_LIMITS if isinstance(result, Estimate) else SIMULATION_LIMITS
    return Page(
        result=result,
        attribution=attribute(result),
        facts=[
            ("Read", read_facts(batch)),
            ("Priced", priced_facts(pricing, result.usd_per_hour)),
            ("Load", [how]),
            ("Evidence", evidence_facts(pricing.calibration)),
            ("Extrapolated", list(result.uncertainty.sentences) or ["nothing: all of it lies within the evidence"]),
            ("Left out", [*own_limits, *LIMITS]),
        ],
        how=how,
        warnings=asked.warnings(result),
        timeline=_timeline(batch, asked, result),
        cliff=cliff,
        cliff_absent=absent,
        survival=_survival(result, asked) if isinstance(result, Estimate) else None,
    )


def _timeline(batch: Batch, asked: AskedPage, result: Estimate | Simulation) -> Any:
    """The engine's state in about :data:`BINS` bins; None for an estimate and where nothing ran."""
    if isinstance(result, Estimate) or not result.engine.end_s:
        return None
    timed: Any = asked.priced(batch, timeline_s=max(result.engine.end_s / BINS, 1e-6))
    return timed.timeline


def _cliff(batch: Batch, asked: AskedPage) -> tuple[Cliff | None, str]:
    """Reuse by trajectories in flight, or why it was not looked for."""
    from kvsim.commands.sweep import _cliff as cliffs
    from kvsim.commands.sweep import _plans
    from kvsim.commands.sweep._asked import calibration_of, gpus_of, models_of
    from kvsim.commands.sweep._points import Point
    from kvsim.commands.sweep._serving import Conditions, Server

    if asked.cliff is None and batch.turns > CLIFF_TURNS:
        return None, f"Not looked for in more than {CLIFF_TURNS:,} turns: --cliff does."
    if asked.cliff is False or not len(batch):
        return None, "Not looked for."
    models, gpus, traffic = models_of([asked.model]), gpus_of([asked.gpu]), asked.traffic
    conditions = Conditions(
        models=models,
        gpus=gpus,
        engine=asked.engine,
        calibration=calibration_of(asked.calibration, gpus),
        usd_per_hour=asked.usd_per_hour,
        speedup=1.0,
        stagger_s=0.0,
        seed=traffic.seed,
        backend=asked.backend,
        strict=False,
    )
    base = Point(
        model=next(iter(models)),
        gpu=next(iter(gpus)),
        num_gpu_blocks_override=asked.engine.num_gpu_blocks_override,
        replicas=traffic.replicas,
        router=traffic.router,
        retention=traffic.retention,
        pause_scale=1.0,
        arrivals="closed:1",
    )
    rows = _plans.follow(cliffs.search(base, len(batch)), Server(batch, conditions))
    served = sorted((row for row in rows if row["status"] == "ok"), key=cliffs.in_flight)
    found = cliffs.cliff_of(base, rows)
    if found is None:
        return None, str(rows[0]["reason"])
    return (
        Cliff(
            in_flight=[cliffs.in_flight(row) for row in served],
            reuse_share=[row["reuse_share"] for row in served],
            turns_per_s=[row["turns_per_s"] for row in served],
            turn_s=[row["e2e_s_mean"] for row in served],
            collapses_at=found.collapses_at,
            fastest=found.fastest,
        ),
        "",
    )


def _survival(result: Estimate, asked: AskedPage) -> Survival | None:
    """The same trajectories with KV that survives pauses of up to so long, from the shortest pause to the longest."""
    pauses_s = result.pauses_ns[result.pauses_ns > 0] / 1e9
    if not len(pauses_s):
        return None
    ends = (max(float(pauses_s.min()) / 2, 1e-3), min(float(pauses_s.max()) * 1.2, 1e8))
    load, ttl_s = result.pricing.load, [float(f"{ttl:.4g}") for ttl in np.geomspace(*ends, SURVIVALS)]
    found = [estimate(result.batch, **asked.pricing, load=replace(load, kv=f"ttl:{ttl:.4g}")) for ttl in ttl_s]
    return Survival(
        ttl_s=ttl_s,
        model_s=[float(np.nansum(each.model_s)) for each in found],
        recompute_s=[float(np.nansum(each.recompute_s)) for each in found],
    )
