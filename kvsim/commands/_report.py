"""What ``kvsim report`` puts on its page: the result that was asked for, its facts, and what eviction would do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.commands._evidence import evidence_facts
from kvsim.commands._pricing_facts import load_fact, price_warnings, priced_facts
from kvsim.commands._reading_facts import read_facts, read_warnings
from kvsim.commands._run_warnings import run_warnings
from kvsim.commands._traffic import Traffic, one_turn
from kvsim.errors import InputError
from kvsim.estimation import Estimate, estimate
from kvsim.insight import attribute
from kvsim.load import Load
from kvsim.report.page import Cliff, Page, Survival
from kvsim.simulation import simulate

if TYPE_CHECKING:
    from kvsim.engine import EngineConfig
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
class Asked:
    """The options of the command; ``traffic.arrivals`` is empty for an estimate."""

    model: str
    gpu: str
    engine: EngineConfig
    load: str | None
    traffic: Traffic
    cliff: bool | None
    calibration: str | None
    usd_per_hour: float | None
    backend: str
    strict: bool

    def __post_init__(self) -> None:
        if self.simulated and self.load is not None:
            raise InputError(
                "a simulation has its own load", field="load", remedy="Give --load or --arrivals, not both"
            )
        if not self.simulated and self.traffic != Traffic(arrivals=""):
            raise InputError(
                "options of traffic are of a simulation",
                field="arrivals",
                remedy="Say how trajectories come, say --arrivals closed:16",
            )

    @property
    def simulated(self) -> bool:
        """Whether trajectories share an engine."""
        return bool(self.traffic.arrivals)

    @property
    def pricing(self) -> dict[str, Any]:
        """The arguments that estimates and simulations have in common."""
        names = ("model", "gpu", "engine", "calibration", "usd_per_hour", "backend")
        return {name: getattr(self, name) for name in names}

    def require_names(self) -> None:
        """Fail on what is unknown or does not fit before a long read, not after it."""
        self.priced(one_turn())

    def priced(self, batch: Batch, **more: Any) -> Estimate | Simulation:
        """The batch's estimate or simulation."""
        if self.simulated:
            return simulate(batch, **self.pricing, **self.traffic.arguments, **more)
        return estimate(batch, **self.pricing, load=Load.parse(self.load or ""), **more)


def page_of(batch: Batch, asked: Asked) -> Page:
    """The page of a batch."""
    result = asked.priced(batch, strict=asked.strict)
    cliff, absent = _cliff(batch, asked)
    if isinstance(result, Estimate):
        how = load_fact(result.pricing.load, batch)
        warnings = [*read_warnings(batch), *price_warnings(result)]
    else:
        how, warnings = asked.traffic.fact(), run_warnings(result)
    pricing = result.pricing
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
        warnings=warnings,
        timeline=_timeline(batch, asked, result),
        cliff=cliff,
        cliff_absent=absent,
        survival=_survival(result, asked) if isinstance(result, Estimate) else None,
    )


def _timeline(batch: Batch, asked: Asked, result: Estimate | Simulation) -> Any:
    """The engine's state in about :data:`BINS` bins; None for an estimate and where nothing ran."""
    if isinstance(result, Estimate) or not result.engine.end_s:
        return None
    timed: Any = asked.priced(batch, timeline_s=max(result.engine.end_s / BINS, 1e-6))
    return timed.timeline


def _cliff(batch: Batch, asked: Asked) -> tuple[Cliff | None, str]:
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


def _survival(result: Estimate, asked: Asked) -> Survival | None:
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
