"""What ``kvsim report`` puts on its page: the result that was asked for, its facts, and what eviction would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kvsim.commands._asked import Asked
from kvsim.commands._evidence import evidence_facts
from kvsim.commands._pricing_facts import priced_facts
from kvsim.commands._reading_facts import read_facts
from kvsim.commands._report_eviction import cliff_of, survival_of
from kvsim.cores import in_order, threads_of
from kvsim.estimation import Estimate
from kvsim.insight import explain
from kvsim.load import Load
from kvsim.report.page import Page

if TYPE_CHECKING:
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
class AskedPage(Asked):
    """The result that the options ask for, and whether its eviction cliff is wanted."""

    cliff: bool | None

    def explained(self, batch: Batch) -> Advice:
        """The result, and which changes would save most."""
        if self.simulated:
            return explain(batch, **self.pricing, **self.traffic.arguments)
        return explain(batch, **self.pricing, load=Load.parse(self.load or ""))


def page_of(batch: Batch, asked: AskedPage) -> Page:
    """The page of a batch."""
    if asked.strict:
        asked.priced(batch, strict=True)
    advice: Advice
    finders: tuple[Callable[[Batch], Any], ...] = (asked.explained, partial(cliff_of, asked=asked))
    advice, (cliff, absent) = in_order(lambda find: find(batch), finders, threads_of("auto"))
    result = advice.result
    how, pricing = asked.fact(result), result.pricing
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
        warnings=asked.warnings(result),
        timeline=_timeline(batch, asked, result),
        cliff=cliff,
        cliff_absent=absent,
        survival=survival_of(result, asked) if isinstance(result, Estimate) else None,
    )


def _timeline(batch: Batch, asked: AskedPage, result: Estimate | Simulation) -> Any:
    """The engine's state in about :data:`BINS` bins; None for an estimate and where nothing ran."""
    if isinstance(result, Estimate) or not result.engine.end_s:
        return None
    timed: Any = asked.priced(batch, timeline_s=max(result.engine.end_s / BINS, 1e-6))
    return timed.timeline
