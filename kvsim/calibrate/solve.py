"""The most plausible coefficients given all evidence at once and what was believed before.

Every kind of evidence counts by its own noise, estimated from how far it lies off after a first fit. What the evidence
says little about is not fitted: such a coefficient keeps the value that was believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MissingExtraError
from .prior import Belief
from .resampling import fits_to
from .robust import HELD_OUT, Array, held_out_groups, interval

FIRST_NOISE = 0.03
"""Relative error of single rows in the first fits, which shall follow the evidence more than what was believed."""

ASSUMED_NOISE = 0.1
"""What is assumed of few rows, which say little about their own noise."""

FEW = 4
"""So many rows are as good a word on their noise as what is assumed."""

LEAST_NOISE, MOST_NOISE = 0.02, 0.5
"""Relative errors of single rows: none is trusted beyond 2 %, none is disregarded for being 50 % off."""

IDENTIFIED = 0.7
"""A coefficient is fitted where the evidence leaves at most this share of the believed spread."""

FELT = 1e-4
"""Relative change of any prediction by 10 % of a coefficient from which on it bears on the evidence."""

RESAMPLES = 24
SETTLED = 0.005
MOST_ROUNDS = 8
"""Predictions under load are simulated anew after each fit until none moves by more than this share."""


class Evidence(Protocol):
    """Measured times of one kind, one value a row, that values of the coefficients predict."""

    @property
    def kind(self) -> str:
        """What was measured, for people."""
        ...

    @property
    def measured(self) -> Array:
        """Seconds."""
        ...

    @property
    def groups(self) -> npt.NDArray[Any]:
        """Rows of one group are held out and resampled together."""
        ...

    @property
    def places(self) -> Sequence[str]:
        """Where each row stands, for the list of outliers."""
        ...

    def predict(self, values: Mapping[str, float]) -> Array:
        """Seconds of all rows."""
        ...

    def settle(self, values: Mapping[str, float]) -> float:
        """Take up what only a simulation at these values can tell; the largest relative change of a prediction."""
        ...


@dataclass(frozen=True, slots=True)
class Solution:
    """Values of all coefficients, fitted and kept; 90 % intervals of the fitted ones; and by evidence its noise and
    log(measured / predicted), of all rows and of rows held out (each group once)."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    noise: list[float]
    errors: list[Array]
    held_out: list[Array]
    rounds: int


def solve(evidence: Sequence[Evidence], believed: Mapping[str, Belief], candidates: Sequence[str]) -> Solution:
    """Fit those of the ``candidates`` that the evidence identifies; all else keeps what is believed.

    Raises InputError where the evidence identifies nothing.
    """
    before = {name: belief.value for name, belief in believed.items()}
    for part in evidence:
        part.settle(before)
    felt = [name for name in candidates if _felt(evidence, before, name)]
    problem = _Problem(evidence, believed, [FIRST_NOISE] * len(evidence))
    values, rounds = _settled(problem, felt, before)
    problem = _Problem(evidence, believed, problem.noise_of(felt, values))
    free = problem.identified(felt, values)
    if not free:
        raise InputError(
            "the evidence identifies no coefficient", remedy="Give more of it: other lengths, batches or models."
        )
    kept = {name: belief.value for name, belief in believed.items() if name not in free}
    values, more = _settled(problem, free, {**values, **kept})
    return Solution(
        values,
        problem.intervals(free, values),
        problem.noise,
        problem.errors(values),
        problem.held_out(free, values),
        rounds + more,
    )


def _settled(problem: _Problem, free: Sequence[str], start: Mapping[str, float]) -> tuple[dict[str, float], int]:
    """Fitted values at which simulations say what the fit expected, and how many fits that took."""
    values, moved, rounds = dict(start), np.inf, 0
    while moved > SETTLED and rounds < MOST_ROUNDS:
        values = problem.minimise(free, values)
        moved = max(part.settle(values) for part in problem.evidence)
        rounds += 1
    return values, rounds


def _felt(evidence: Sequence[Evidence], values: Mapping[str, float], name: str) -> bool:
    moved = {**values, name: 1.1 * values[name]}
    return any(np.max(np.abs(part.predict(moved) / part.predict(values) - 1), initial=0.0) > FELT for part in evidence)


class _Problem:
    """Errors of all evidence, each by its noise, and the pull of what was believed."""

    def __init__(self, evidence: Sequence[Evidence], believed: Mapping[str, Belief], noise: list[float]) -> None:
        self.evidence = evidence
        self.believed = believed
        self.noise = noise
        self._weights = [_weights(part.groups) for part in evidence]

    def errors(self, values: Mapping[str, float]) -> list[Array]:
        """log(measured / predicted) by evidence."""
        return [np.log(part.measured / part.predict(values)) for part in self.evidence]

    def minimise(
        self, free: Sequence[str], start: Mapping[str, float], times: Sequence[Array] | None = None
    ) -> dict[str, float]:
        """Values with the free ones fitted; ``times`` says how often each row counts."""
        try:
            from scipy.optimize import least_squares
        except ImportError:
            raise MissingExtraError("scipy", "fit", "fitting a calibration") from None
        if not free:
            return dict(start)
        beliefs = [self.believed[name] for name in free]
        low, high = (np.log([getattr(part, end) for part in beliefs]) for end in ("low", "high"))
        begin = np.clip(np.log([start[name] for name in free]), low + 1e-6, high - 1e-6)
        found = least_squares(
            self._pulls(free, start, times), begin, bounds=(low, high), xtol=1e-6, ftol=1e-6, max_nfev=60
        )
        return {**start, **dict(zip(free, np.exp(found.x).tolist(), strict=True))}

    def noise_of(self, free: Sequence[str], values: Mapping[str, float]) -> list[float]:
        """From each evidence's median distance, as if errors were normal; coefficients that follow the evidence take
        their share of it out of its errors."""
        pull = np.diag([1 / self.believed[name].spread ** 2 for name in free])
        rows = sum(len(part.measured) for part in self.evidence)
        total = self._information(free, values)
        taken = float(np.trace(np.linalg.solve(total, total - pull)))
        left = max(1 - taken / rows, 1 / rows)
        found = []
        for errors in self.errors(values):
            size = 1.4826 * float(np.median(np.abs(errors))) / np.sqrt(left)
            shrunk = np.sqrt((len(errors) * size**2 + FEW * ASSUMED_NOISE**2) / (len(errors) + FEW))
            found.append(min(MOST_NOISE, max(LEAST_NOISE, float(shrunk))))
        return found

    def identified(self, free: Sequence[str], values: Mapping[str, float]) -> list[str]:
        """The free ones, least identified left out one by one until the evidence says enough about each."""
        information = self._information(free, values)
        kept = list(range(len(free)))
        while kept:
            part = np.linalg.inv(information[np.ix_(kept, kept)])
            shares = np.sqrt(np.diag(part)) / [self.believed[free[number]].spread for number in kept]
            worst = int(np.argmax(shares))
            if shares[worst] <= IDENTIFIED:
                break
            kept.pop(worst)
        return [free[number] for number in kept]

    def intervals(self, free: Sequence[str], values: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """5 % to 95 % of fits to groups drawn anew with replacement."""
        random = np.random.default_rng(sum(len(part.measured) for part in self.evidence))
        draws = []
        for _ in range(RESAMPLES):
            times = []
            for part in self.evidence:
                names, member = np.unique(part.groups, return_inverse=True)
                drawn = np.bincount(random.integers(len(names), size=len(names)), minlength=len(names))
                times.append(drawn[member].astype(np.float64))
            draws.append(times)
        samples = fits_to(draws, lambda times: self.minimise(free, values, times))
        return {name: interval(values[name], [fitted[name] for fitted in samples]) for name in free}

    def held_out(self, free: Sequence[str], values: Mapping[str, float]) -> list[Array]:
        """Errors of each fifth of the groups under fits to the others."""
        out: list[list[Array]] = [[] for _ in self.evidence]
        for turn in range(HELD_OUT):
            held = [held_out_groups(part.groups, turn) for part in self.evidence]
            if not any(part.any() for part in held):
                continue
            apart = self.minimise(free, values, [(~part).astype(np.float64) for part in held])
            for kept, part, errors in zip(out, held, self.errors(apart), strict=True):
                kept.append(errors[part])
        return [np.concatenate(parts) if parts else np.array([]) for parts in out]

    def _information(self, free: Sequence[str], values: Mapping[str, float]) -> Array:
        """Curvature of the sum of squares at values, what was believed included."""
        logs = np.log([values[name] for name in free])
        pulls, step = self._pulls(free, values, None), 0.02
        base = pulls(logs)
        jacobian = np.array([(pulls(logs + step * unit) - base) / step for unit in np.eye(len(free))]).T
        return np.asarray(jacobian.T @ jacobian)

    def _pulls(
        self, free: Sequence[str], fixed: Mapping[str, float], times: Sequence[Array] | None
    ) -> Callable[[Array], Array]:
        centre = np.log([self.believed[name].value for name in free])
        spread = np.array([self.believed[name].spread for name in free])
        weights = self._weights if times is None else [a * b for a, b in zip(self._weights, times, strict=True)]

        def pulls(logs: Array) -> Array:
            values = {**fixed, **dict(zip(free, np.exp(logs).tolist(), strict=True))}
            parts = []
            for errors, noise, weight in zip(self.errors(values), self.noise, weights, strict=True):
                off = errors / noise  # soft L1: beyond its noise a row's pull grows no further
                parts.append(np.sqrt(weight) * np.sign(off) * np.sqrt(2 * (np.sqrt(1 + off**2) - 1)))
            return np.concatenate([*parts, (logs - centre) / spread])

        return pulls


def _weights(groups: npt.NDArray[Any]) -> Array:
    """Rows of one group err together: a group of n counts as the root of n rows."""
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / np.sqrt(sizes[member]))
