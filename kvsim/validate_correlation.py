"""What goes with the wall-clock time of turns: tokens, their price, PTE and kvsim, on logged runs of the real engine.

The runs are those of :mod:`kvsim.validate_closed_loop`: held out, in closed loop, their law fitted to sweeps alone.
Every correlation says its unit: requests of a run, means by turn index, or sums by trajectory. Repeats of the real
engine, correlated with each other, are the ceiling.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import stats

from kvsim.architecture import Architecture
from kvsim.calibrate.robust import Array
from kvsim.metrics.pte import Read, exact_turns, paper_gamma, paper_turns
from kvsim.validate_closed_loop import ClosedLoop, RunPrediction, pearson, planned_turns

PRICES = (1.0, 0.1, 5.0)
"""Of an input token, one of a known prefix, and an output token: about the ratios of large models' list prices."""

PAPER_GPU = "h100-sxm"
"""Whose FLOP-to-byte ratio the paper's reading takes; it has none for processors."""

UNITS = ("request", "turn index", "trajectory")
KVSIM = "kvsim"
REPEATS = "repeats of vLLM"


@dataclass(frozen=True)
class RunMeasures:
    """One run: per turn, in the order of sessions and turns, what is compared and the measured E2E."""

    run: RunPrediction
    session: Array
    turn: Array
    measures: Mapping[str, Array]

    def by(self, unit: str, values: Array) -> Array:
        """Values per turn as values per ``unit``."""
        if unit == "request":
            return values
        groups = (self.turn if unit == "turn index" else self.session).astype(np.int64)
        sums = np.asarray(np.bincount(groups, weights=values), np.float64)
        return sums / np.bincount(groups) if unit == "turn index" else sums

    def correlation(self, name: str, unit: str) -> tuple[float, float]:
        """Pearson's and Spearman's, with the measured E2E."""
        return correlations(*(self.by(unit, values) for values in (self.measures[name], self.run.measured.e2e_s)))


@dataclass(frozen=True)
class Correlations:
    """All runs, and which of them repeat each other."""

    runs: list[RunMeasures]

    @property
    def names(self) -> list[str]:
        return list(self.runs[0].measures)

    @cached_property
    def repeats(self) -> dict[tuple[str, ...], list[tuple[RunMeasures, RunMeasures]]]:
        """Pairs of runs with one plan on one engine, by setting."""
        pairs = defaultdict(list)
        for one, other in combinations(self.runs, 2):
            if one.run.setting == other.run.setting and one.run.plan == other.run.plan:
                pairs[one.run.setting].append((one, other))
        return dict(pairs)

    def ceiling(self, setting: tuple[str, ...], unit: str = "request") -> tuple[float, float]:
        """Medians over the setting's pairs of repeats."""
        return median_of(
            correlations(*(one.by(unit, one.run.measured.e2e_s) for one in pair)) for pair in self.repeats[setting]
        )


def correlate(found: ClosedLoop) -> Correlations:
    """Measures of all runs. PTE as the paper prints it needs the model's configuration; it is NaN without."""
    known = {name: Architecture.of_config(config, name) for name, config in found.models.items()}
    return Correlations([_measures(run, known.get(run.law.model)) for run in found.runs])


def _measures(run: RunPrediction, architecture: Architecture | None) -> RunMeasures:
    turns = planned_turns(run.plan)
    session, turn, prompt, output = np.array(turns, np.float64).T
    kept = np.array(
        [turns[row - 1].prompt_tokens + turns[row - 1].output_tokens if row else 0 for row in range(len(turns))]
    )
    kept = np.where(turn == 0, 0, kept)
    cost = run.law.cost
    fresh, cached, generated = PRICES
    gamma = paper_gamma(architecture, PAPER_GPU) if architecture else float("nan")
    return RunMeasures(
        run,
        session,
        turn,
        {
            "output tokens": output,
            "all tokens": prompt + output,
            "priced tokens": fresh * (prompt - kept) + cached * kept + generated * output,
            "PTE, paper": paper_turns(prompt, output, gamma),
            "PTE, exact": exact_turns(prompt, output, kept, (Read(cost.decode_context_s / cost.token_s),)),
            "PTE, calibrated": run.alone.e2e_s,
            KVSIM: run.predicted.e2e_s,
        },
    )


def correlations(one: Array, other: Array) -> tuple[float, float]:
    """Pearson's r and Spearman's rho, which is that of ranks; NaN where one of them is constant or has no value."""
    if len(one) < 3 or not np.isfinite(one).all():
        return float("nan"), float("nan")
    return pearson(one, other), pearson(*(np.asarray(stats.rankdata(values)) for values in (one, other)))


def median_of(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Medians of Pearson's and of Spearman's, those that exist."""
    values = np.array(list(pairs), np.float64).reshape(-1, 2)
    if not np.isfinite(values).any():
        return float("nan"), float("nan")
    return float(np.nanmedian(values[:, 0])), float(np.nanmedian(values[:, 1]))
