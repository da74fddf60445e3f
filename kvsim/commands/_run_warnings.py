"""What of a simulation needs attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvsim.commands._evidence import beyond
from kvsim.commands._pricing_facts import status_warnings
from kvsim.commands._reading_facts import read_warnings
from kvsim.commands._run_totals import peak_sequences

if TYPE_CHECKING:
    from kvsim.simulation import Simulation


def run_warnings(run: Simulation) -> list[str]:
    """What of the read, of turns not served and of the evidence needs attention, with what to do."""
    gpu = run.pricing.gpu.id
    return [
        *read_warnings(run.batch),
        *status_warnings(run.pricing, run.status_counts, "served"),
        *(f"{gpu}: beyond the evidence: {sentence}" for sentence in beyond_evidence_of(run)),
    ]


def beyond_evidence_of(run: Simulation) -> tuple[str, ...]:
    """One sentence for each way in which the served turns lie outside what the calibration rests on."""
    reach = extremes(run)
    return beyond(run.pricing, **reach) if reach["sequences"] else ()


def extremes(run: Simulation) -> dict[str, int]:
    """The largest prefill, the most sequences in a step and the longest context that were served; 0 where none was."""
    served = run.turns.status == "ok"
    if not served.any():
        return {"prefilled_tokens": 0, "sequences": 0, "context_tokens": 0}
    batch = run.batch
    return {
        "prefilled_tokens": int((batch.prompt_tokens - run.turns.cached_tokens)[served].max()),
        "sequences": min(peak_sequences(run), run.pricing.engine.max_num_seqs),
        "context_tokens": int((batch.prompt_tokens + batch.output_tokens)[served].max()),
    }
