"""A sweep as JSON; docs/json.md describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvsim import __version__
from kvsim.commands._evidence import calibration_object
from kvsim.commands._json import write
from kvsim.commands._reading_facts import input_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvsim.commands.sweep._found import Found
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch

SCHEMA = "kvsim.sweep/1"


def write_json(
    batch: Batch, found: Found, pricings: Mapping[tuple[str, str], Pricing], warnings: Sequence[str]
) -> None:
    """Print one object: a row a point, and what the presets found."""
    calibrations = {pricing.gpu.id: calibration_object(pricing.calibration) for pricing in pricings.values()}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kvsim": __version__,
        "input": input_object(batch),
        "calibrations": calibrations,
        "points": found.rows,
        "cliffs": [cliff.as_object() for cliff in found.cliffs],
        "break_evens": [one.as_object() for one in found.break_evens],
        "warnings": warnings,
    }
    write(document)
