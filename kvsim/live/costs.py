"""How long measurements will take, judged by those already taken: what a plan is cut to a time budget with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from kvsim.calibrate.observations import Observation

FloatArray = npt.NDArray[np.float64]

FIRST_GUESS_S = 0.05
"""Of anything, before anything was measured."""


class Costs:
    """Estimates from observations so far; they err on the long side where little is known."""

    def __init__(self) -> None:
        self._prefills: list[tuple[FloatArray, float]] = []
        self._steps: list[tuple[FloatArray, float]] = []
        self._prefill = self._step = np.zeros(3)

    def learn(self, rows: Iterable[Observation]) -> None:
        """Take more observations into account."""
        for row in rows:
            if row.kind == "ttft" and row.seconds and row.new_tokens:
                self._prefills.append((_prefill_terms(row.new_tokens, row.cached_tokens or 0), row.seconds))
                self._prefill = _non_negative(self._prefills)
            elif row.kind == "decode" and row.seconds and row.batch:
                self._steps.append((_step_terms(row.batch, row.context_tokens or 0), row.seconds))
                self._step = _non_negative(self._steps)

    def prefill_s(self, new: int, cached: int = 0) -> float:
        """The prefill of one prompt."""
        return float(_prefill_terms(new, cached) @ self._prefill) if self._prefills else FIRST_GUESS_S

    def step_s(self, batch: int, context: float) -> float:
        """A step in which ``batch`` sequences decode."""
        if not self._steps:
            return self.prefill_s(batch)
        return float(_step_terms(batch, context) @ self._step)


def _prefill_terms(new: int, cached: int) -> FloatArray:
    return np.array([1.0, new, new * (cached + new / 2)])


def _step_terms(batch: int, context: float) -> FloatArray:
    return np.array([1.0, batch, batch * context])


def _non_negative(points: Sequence[tuple[FloatArray, float]]) -> FloatArray:
    """Coefficients of at least 0 by least squares of relative errors."""
    from scipy.optimize import nnls

    terms = np.array([row / seconds for row, seconds in points])
    size = terms.max(axis=0)
    found, _ = nnls(terms / size, np.ones(len(points)))
    return np.asarray(found / size)
