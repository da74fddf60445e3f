"""Estimates as JSON and CSV on stdout; docs/json.md describes both."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Any

from kvsim import __version__
from kvsim.columns import records, trajectory_columns, trajectory_ends, turn_columns, turn_ends
from kvsim.commands._evidence import uncertainty_object
from kvsim.commands._json import write
from kvsim.commands._outlook import Outlook
from kvsim.commands._pricing_facts import pricing_object
from kvsim.commands._reading_facts import input_object
from kvsim.commands._totals import interval_totals, totals

SCHEMA = "kvsim.estimate/1"


def write_json(outlooks: Sequence[Outlook], warnings: Sequence[str], *, turns: bool) -> None:
    """Print one object with everything."""
    write(
        {
            "schema": SCHEMA,
            "kvsim": __version__,
            "input": input_object(outlooks[0].estimate.batch),
            "estimates": [_entry(outlook, turns=turns) for outlook in outlooks],
            "warnings": warnings,
        }
    )


def _entry(outlook: Outlook, *, turns: bool) -> dict[str, Any]:
    found = outlook.estimate
    entry = {
        "pricing": pricing_object(found),
        "beyond_evidence": found.uncertainty.sentences,
        "totals": totals(found),
        "interval": {**uncertainty_object(found.uncertainty), "totals": interval_totals(found)},
        "totals_if_evicted_at_every_pause": totals(outlook.evicted),
        "status_counts": found.status_counts,
        "trajectories": records(trajectory_columns(found) | trajectory_ends(found)),
    }
    return entry | ({"turns": records(turn_columns(found) | turn_ends(found))} if turns else {})


def write_csv(outlooks: Sequence[Outlook], *, turns: bool) -> None:
    """Print one row a trajectory or turn and GPU, the header first; what is unknown is empty."""
    columns, ends = (turn_columns, turn_ends) if turns else (trajectory_columns, trajectory_ends)
    writer = None
    for outlook in outlooks:
        table = columns(outlook.estimate) | ends(outlook.estimate)
        if writer is None:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(["gpu", *table])
        for record in records(table):
            values = ("" if value != value else value for value in record.values())
            writer.writerow([outlook.estimate.pricing.gpu.id, *values])
