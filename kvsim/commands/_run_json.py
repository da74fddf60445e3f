"""A simulation as JSON and CSV; docs/json.md describes both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvsim import __version__
from kvsim.columns import records, trajectory_columns, trajectory_ends
from kvsim.commands._evidence import uncertainty_object
from kvsim.commands._json import write
from kvsim.commands._pricing_facts import pricing_object
from kvsim.commands._reading_facts import input_object
from kvsim.commands._run_totals import (
    distributions,
    engine_totals,
    interval_distributions,
    interval_totals,
    replica_totals,
    run_totals,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvsim.commands._traffic import Traffic
    from kvsim.simulation import Simulation

SCHEMA = "kvsim.simulate/1"


def write_json(run: Simulation, traffic: Traffic, warnings: Sequence[str], *, timeline: bool) -> None:
    """Print one object with everything but single turns."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kvsim": __version__,
        "input": input_object(run.batch),
        "pricing": pricing_object(run),
        "traffic": traffic.arguments,
        "beyond_evidence": run.uncertainty.sentences,
        "engine": engine_totals(run),
        "replicas": replica_totals(run),
        "totals": run_totals(run),
        "distributions": distributions(run),
        "interval": {
            **uncertainty_object(run.uncertainty),
            "totals": interval_totals(run),
            "distributions": interval_distributions(run),
        },
        "status_counts": run.status_counts,
        "trajectories": records(trajectory_columns(run) | trajectory_ends(run)),
    }
    if timeline:
        document["timeline"] = records(dict(run.timeline))
    write(document | {"warnings": warnings})
