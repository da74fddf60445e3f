"""What a page tells of the calibration in force: what it was measured on, and every coefficient with its interval."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kvsim.calibration import OVERHEADS, QUANTITIES

if TYPE_CHECKING:
    from kvsim.calibration import Calibration


def calibration_facts(calibration: Calibration) -> dict[str, Any]:
    """Ranges of the evidence, and rows of coefficients: kernels first, then the engine's overheads."""
    tables = ((calibration.coefficients, QUANTITIES), (calibration.overheads[calibration.engine], OVERHEADS))
    return {
        "evidence": asdict(calibration.evidence),
        "coefficients": [
            {"name": name, "unit": known[name].unit, "meaning": known[name].meaning, **asdict(coefficient)}
            for coefficients, known in tables
            for name, coefficient in coefficients.items()
        ],
    }
