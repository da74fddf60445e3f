"""What ``kvsim report`` puts on its page: the result that was asked for, its facts, and what eviction would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kvsim.commands._evidence import evidence_facts
from kvsim.commands._pricing_facts import load_fact, price_warnings, priced_facts
from kvsim.commands._reading_facts import read_facts, read_warnings
from kvsim.commands._report_eviction import cliff_of, survival_of
from kvsim.commands._run_warnings import run_warnings
from kvsim.commands._traffic import Traffic, one_turn
from kvsim.cores import in_order, threads_of
from kvsim.errors import InputError
from kvsim.estimation import Estimate, estimate
from kvsim.insight import explain
from kvsim.load import Load
from kvsim.report.page import Page
from kvsim.simulation import simulate

if TYPE_CHECKING:
    from kvsim.engine import EngineConfig
    from kvsim.insight import Advice
    from kvsim.simulation import Simulation
    from kvsim.trajectory import Batch

BINS = 1_500
"""A timeline has about so many bins."""

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
    def declared(self) -> Load:
        """The load of an estimate."""
        return Load.parse(self.load or "")

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
        return estimate(batch, **self.pricing, load=self.declared, **more)

    def explained(self, batch: Batch) -> Advice:
        """The same, and which changes would save most."""
        if self.simulated:
            return explain(batch, **self.pricing, **self.traffic.arguments)
        return explain(batch, **self.pricing, load=self.declared)


def page_of(batch: Batch, asked: Asked) -> Page:
    """The page of a batch."""
    if asked.strict:
        asked.priced(batch, strict=True)
    advice: Advice
    finders: tuple[Callable[[Batch], Any], ...] = (asked.explained, partial(cliff_of, asked=asked))
    advice, (cliff, absent) = in_order(lambda find: find(batch), finders, threads_of("auto"))
    result = advice.result
    if isinstance(result, Estimate):
        how = load_fact(result.pricing.load, batch)
        warnings = [*read_warnings(batch), *price_warnings(result)]
    else:
        how, warnings = asked.traffic.fact(), run_warnings(result)
    pricing = result.pricing
    own_limits = ESTIMATE_LIMITS if isinstance(result, Estimate) else SIMULATION_LIMITS
    return Page(
        result=result,
        attribution=advice.attribution,
        advice=advice,
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
        survival=survival_of(result, asked) if isinstance(result, Estimate) else None,
    )


def _timeline(batch: Batch, asked: Asked, result: Estimate | Simulation) -> Any:
    """The engine's state in about :data:`BINS` bins; None for an estimate and where nothing ran."""
    if isinstance(result, Estimate) or not result.engine.end_s:
        return None
    timed: Any = asked.priced(batch, timeline_s=max(result.engine.end_s / BINS, 1e-6))
    return timed.timeline
