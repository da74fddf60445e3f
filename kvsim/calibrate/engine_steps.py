"""Shipped calibrations from whole steps of an engine: sweeps of some models are fitted, those of others held out.

A folder holds a file of observations for each sweep. A file whose header notes ``held out`` is of a model that the fit
does not see: its errors are the spread that the calibration states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..calibration import Calibration
from ..hardware import gpu
from .evidence import CLIENT
from .fitted import FEWEST_ERRORS, REGIMES, Fitted, Part, residual_of
from .measured import deployment_of, fit_observations
from .observation_files import read_observations
from .observations import Observations
from .observed import evidence_of, usable
from .robust import Accuracy, Array

HELD_OUT = "held out"


@dataclass(frozen=True)
class EngineSteps:
    """A fit to the sweeps of some models, and how it predicts those of others."""

    fitted: Fitted
    others: tuple[Part, ...]
    calibration: Calibration


def engine_steps(folder: Path) -> EngineSteps:
    """The calibration from a folder's sweeps. Raises :class:`~kvsim.errors.InputError` where they cannot be read."""
    sweeps = [read_observations(path) for path in sorted(folder.glob("*.csv"))]
    own = [sweep for sweep in sweeps if sweep.header.note != HELD_OUT]
    fitted = fit_observations(own, prior="datasheet")
    checks = checked(fitted.calibration, [sweep for sweep in sweeps if sweep.header.note == HELD_OUT])
    residuals = dict(fitted.calibration.residuals)
    for regime in REGIMES:
        errors = np.concatenate([np.array([]), *(one for part, one in checks if part.regime == regime)])
        if len(errors) >= FEWEST_ERRORS:
            residuals[regime] = residual_of(errors)
    dtypes = " and ".join(sorted({sweep.header.dtype for sweep in own}))
    note = f"rates and overheads fitted to whole steps of the engine in {dtypes}; what it never ran is a guess"
    calibration = replace(fitted.calibration, residuals=residuals, note=note)
    return EngineSteps(fitted, tuple(part for part, _ in checks), calibration)


def checked(calibration: Calibration, observations: Sequence[Observations]) -> list[tuple[Part, Array]]:
    """How a calibration predicts observations that it was not fitted to, by kind: the accuracy, and
    log(measured / predicted)."""
    values = {**calibration.values(), **dict.fromkeys(CLIENT, 0.0)}
    out = []
    for one in observations:
        rows, _ = usable(one)
        deployment = deployment_of(one.header, one.file, gpu(calibration.gpu), None, None)
        for part in evidence_of(rows, deployment, one.file):
            part.settle(values)
            errors = np.log(part.measured / part.predict(values))
            out.append((Part(part.kind, part.regime, 0.0, Accuracy.of(np.array([])), Accuracy.of(errors)), errors))
    return out
