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
from kvsim.insight import attribute, explain
from kvsim.report.page import Page

if TYPE_CHECKING:
    from kvsim.insight import Advice, Transcripts
    from kvsim.trajectory import Batch

BINS = 1_500
"""A timeline has at most so many bins."""

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
    gpus: tuple[str, ...] = ()
    """Others to ask about, and likewise models."""
    models: tuple[str, ...] = ()

    @property
    def simulates(self) -> bool:
        """The cliff is found by simulating."""
        return self.simulated or self.cliff is not False

    def explained(self, batch: Batch, transcripts: Transcripts | None) -> Advice:
        """The result, which changes would save most, and inefficiency patterns."""
        return explain(batch, **self.arguments, transcripts=transcripts, gpus=self.gpus, models=self.models)

    def shown(self, batch: Batch) -> Any:
        """The result with all that a page shows of it: a simulation's timeline, and who evicted what."""
        return self.traced(batch, strict=self.strict, **({"timeline_bins": BINS} if self.simulated else {}))


def page_of(batch: Batch, asked: AskedPage, transcripts: Transcripts | None = None) -> Page:
    """The page of a batch, and of what was said in it."""
    advice: Advice
    finders: tuple[Callable[[Batch], Any], ...] = (
        partial(asked.explained, transcripts=transcripts),
        partial(cliff_of, asked=asked),
        asked.shown,
    )
    advice, (cliff, absent), result = in_order(lambda find: find(batch), finders, threads_of("auto"))
    how, pricing = asked.fact(result), result.pricing
    own_limits = ESTIMATE_LIMITS if isinstance(result, Estimate) else SIMULATION_LIMITS
    return Page(
        result=result,
        attribution=attribute(result),
        advice=advice,
        transcripts=transcripts,
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
        timeline=result.timeline if asked.simulated and result.engine.end_s else None,
        cliff=cliff,
        cliff_absent=absent,
        survival=survival_of(result, asked) if isinstance(result, Estimate) else None,
    )
