"""Fit every shipped calibration: ``python -m kvsim.calibrate.fit [--check] [--ray ADDRESS] [GPU ...]``.

Reads profiles/measurements, writes profiles/calibrations/<gpu>.toml and prints how well fitted and held-out
points are predicted. ``--check`` writes nothing and fails if a shipped file is not reproduced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..calibration import (
    OVERHEADS,
    QUANTITIES,
    Calibration,
    parse_calibration,
)
from ..hardware import gpus
from ..validation import shipped_points
from .fitted import Part
from .measurements import Measurements
from .render import to_toml
from .report import COLUMNS, accuracy
from .robust import Accuracy, Array
from .shipped import calibrate
from .study import Study
from .validation import to_csv, with_intervals

PROFILES = Path(__file__).resolve().parents[2] / "profiles"


SAME = 0.02
"""Relative difference up to which --check takes a value for reproduced: solvers differ in the last digits."""


NEGLIGIBLE = 1e-5
"""Share of a coefficient's upper bound below which it is as good as zero, wherever a solver stops."""


def report(study: Study, names: Sequence[str]) -> str:
    """How well points are predicted, a line for each GPU and table: fitted, then held out."""
    lines = [f"{'GPU':<20}{'table':<34}{'fitted':^32}  {'held out':^32}", " " * 54 + f"{COLUMNS}  {COLUMNS}"]
    for name in names:
        steps = study.engine_steps(name)
        if steps:
            lines += [f"{name:<20}{_parts(part)}" for part in (*steps.fitted.parts, *steps.others)]
            continue
        kernels = study.kernels(name)
        parts = [(table, kernels.fitted[table], kernels.held_out[table]) for table in kernels.fitted]
        parts += [("whole steps", np.array([]), np.concatenate(steps)) for steps in [study.whole_steps(name)] if steps]
        parts += [
            (engine, fitted.result.fitted, fitted.result.held_out) for engine, fitted in study.overheads(name).items()
        ]
        for table, fitted, held_out in parts:
            lines.append(f"{name:<20}{table:<34}{_accuracy(fitted)}  {_accuracy(held_out)}")
    for regime in ("prefill", "decode"):
        errors = study.transfer(regime)
        lines.append(
            f"inheriting, {regime}: n={len(errors)}, median {np.median(np.abs(errors)):.1%}, "
            f"90 % within a factor {np.exp(study.widening(regime)):.2f}"
        )
    return "\n".join(lines)


def _parts(part: Part) -> str:
    return f"{part.kind:<34}{accuracy(part.fitted)}  {accuracy(part.held_out)}"


def _accuracy(errors: Array) -> str:
    return accuracy(Accuracy.of(errors))


def differences(made: Calibration, shipped: Calibration) -> list[str]:
    """Coefficients of a shipped calibration that a fit does not reproduce."""
    pairs = [(name, part, shipped.coefficients[name]) for name, part in made.coefficients.items()]
    nothing = {name: NEGLIGIBLE * quantity.bounds[1] for name, quantity in {**QUANTITIES, **OVERHEADS}.items()}
    for engine, table in made.overheads.items():
        if engine not in shipped.overheads:
            return [f"overheads of {engine} are missing"]
        pairs += [(f"{engine}.{name}", part, shipped.overheads[engine][name]) for name, part in table.items()]
    return [
        f"{name}: {old.value:g} shipped, {new.value:g} fitted"
        for name, new, old in pairs
        if abs(new.value - old.value) > SAME * max(abs(old.value), nothing[name.rpartition(".")[2]])
    ]


def _measured(study: Study, name: str) -> bool:
    return bool(study.engine_steps(name) or study.kernels(name).fitted or study.overheads(name))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kvsim.calibrate.fit", description="Fit the shipped calibrations.")
    parser.add_argument("gpus", nargs="*", metavar="GPU", help="GPU ids; all by default")
    parser.add_argument("--check", action="store_true", help="compare with the shipped files instead of writing")
    parser.add_argument("--measurements", type=Path, default=PROFILES / "measurements", help="folder of tables")
    parser.add_argument("--output", type=Path, default=PROFILES / "calibrations", help="folder to write to")
    parser.add_argument("--ray", metavar="ADDRESS", help="draw intervals on a Ray cluster: host:6379, auto or local")
    options = parser.parse_args(arguments)
    if options.ray is None:
        return _fit(options)
    from ..scale import resampling

    with resampling(options.ray):
        return _fit(options)


def _fit(options: argparse.Namespace) -> int:
    study = Study(Measurements(options.measurements))
    names = options.gpus or gpus()
    wrong = 0
    for name in names:
        made, file = calibrate(study, name), options.output / f"{name}.toml"
        if not options.check:
            text = to_toml(made)
            parse_calibration(text, str(file))  # what is written can be read
            file.write_text(text, encoding="utf-8")
            continue
        for line in differences(made, parse_calibration(file.read_text(encoding="utf-8"), str(file))):
            wrong += 1
            print(f"{name}: {line}", file=sys.stderr)
    if not options.check:
        rows = [row for name in names for row in with_intervals(study, name)]
        others = [row for row in shipped_points() if row["gpu"] not in names] if options.gpus else []
        rows += [dict(row) for row in others]
        (options.output.parent / "validation.csv.gz").write_bytes(to_csv(sorted(rows, key=lambda row: str(row["gpu"]))))
    print(report(study, [name for name in names if _measured(study, name)]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
