"""What of a simulation needs attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvsim.commands._pricing_facts import status_warnings
from kvsim.commands._reading_facts import read_warnings

if TYPE_CHECKING:
    from kvsim.simulation import Simulation


def run_warnings(run: Simulation) -> list[str]:
    """What of the read, of turns not served and of the evidence needs attention, with what to do."""
    gpu = run.pricing.gpu.id
    return [
        *read_warnings(run.batch),
        *status_warnings(run.pricing, run.status_counts, "served"),
        *(f"{gpu}: beyond the evidence: {sentence}" for sentence in run.uncertainty.sentences),
    ]
