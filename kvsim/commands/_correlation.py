"""The tables of ``kvsim validate --correlation``."""

from __future__ import annotations

from typing import TextIO

from kvsim.commands._tables import print_table
from kvsim.validate_correlation import KVSIM, REPEATS, UNITS, Correlations, RunMeasures, median_of

PRESSURES = {"nothing evicted": False, "evicted": True}

NEAR = 0.05
"""How far below the repeats' median kvsim's correlation may lie."""


def print_correlations(found: Correlations, out: TextIO) -> None:
    """Print the correlations by pressure and unit, then by setting, and last how many settings are near the ceiling."""
    for title, pressed in PRESSURES.items():
        runs = [run for run in found.runs if bool(run.run.evicted) == pressed]
        if runs:
            turns = sum(len(run.turn) for run in runs)
            print(
                f"\nRuns with {title}: {len(runs)}, {turns} turns; Pearson / Spearman with E2E, medians over runs",
                file=out,
            )
            print_table(_pressure_rows(found, runs), out)
    print("\nBy setting, Pearson per request, medians over runs", file=out)
    rows, near = _setting_rows(found)
    print_table(rows, out)
    print(
        f"\n{near} of {len(rows) - 1} settings with repeats: kvsim at most {NEAR} below the repeats' median", file=out
    )


def _pressure_rows(found: Correlations, runs: list[RunMeasures]) -> list[list[str]]:
    rows = [["", *(f"per {unit}" for unit in UNITS)]]
    for name in found.names:
        rows.append([name, *(_both(median_of(run.correlation(name, unit) for run in runs)) for unit in UNITS)])
    settings = {run.run.setting for run in runs} & set(found.repeats)
    ceilings = (median_of(found.ceiling(setting, unit) for setting in settings) for unit in UNITS)
    return [*rows, [REPEATS, *map(_both, ceilings)]]


def _setting_rows(found: Correlations) -> tuple[list[list[str]], int]:
    rows, near = [["setting", "runs", "turns", *found.names, REPEATS, "pairs"]], 0
    for setting, pairs in found.repeats.items():
        runs = [run for run in found.runs if run.run.setting == setting]
        medians = {name: median_of(run.correlation(name, "request") for run in runs)[0] for name in found.names}
        ceiling = found.ceiling(setting)[0]
        near += medians[KVSIM] >= ceiling - NEAR
        figures = [f"{value:.2f}" for value in (*medians.values(), ceiling)]
        rows.append(["/".join(setting), str(len(runs)), str(sum(len(r.turn) for r in runs)), *figures, str(len(pairs))])
    return rows, near


def _both(pair: tuple[float, float]) -> str:
    return "{:.2f} / {:.2f}".format(*pair)
