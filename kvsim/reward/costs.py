"""What rollouts cost, and what of it each turn and each tool call is answerable for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kvsim.estimation import Estimate
    from kvsim.reward.rollouts import Rollouts
    from kvsim.reward.units import Unit
    from kvsim.trajectory import Ints

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PerTurn:
    """One value for each turn of each rollout: ``values[offsets[i]:offsets[i + 1]]`` are those of rollout i."""

    offsets: Ints
    values: Floats

    def __getitem__(self, rollout: int) -> Floats:
        return self.values[self.offsets[rollout] : self.offsets[rollout + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Floats]:
        return (self[rollout] for rollout in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype) if copy else np.asarray(self.values, dtype)


class Costs:
    """The costs of rollouts in one unit; ``np.asarray`` gives :attr:`trajectories`. All values are finite.

    ``assumptions`` says what was taken for granted because the rollouts did not say it, and how often.
    """

    def __init__(self, rollouts: Rollouts, estimate: Estimate, unit: Unit, assumptions: Mapping[str, int]) -> None:
        self.rollouts = rollouts
        self.estimate = estimate
        self.assumptions = dict(assumptions)
        self._unit = unit

    @property
    def unit(self) -> str:
        """The name of the unit."""
        return self._unit.name

    def __len__(self) -> int:
        return len(self.rollouts)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.trajectories, dtype) if copy else np.asarray(self.trajectories, dtype)

    @cached_property
    def trajectories(self) -> Floats:
        """What each rollout costs by itself, shape (rollouts,).

        All its turns count, whether or not others went through them too, and its prompt is prefilled for it alone, so
        that the cost of a rollout does not depend on which others it is priced with.
        """
        if self.rollouts.paths is None:
            return self._unit.trajectories(self.estimate)
        rows, starts = self.rollouts.entries.values, self.rollouts.entries.offsets[:-1]
        if self.unit == "latency_s":
            release, finish = self.estimate.span_ns
            amounts = np.maximum.reduceat(finish[rows], starts) - np.minimum.reduceat(release[rows], starts)
        else:
            amounts = np.add.reduceat(self._amounts[rows], starts)
        return self._unit.value(self.estimate, amounts)

    @cached_property
    def turns(self) -> PerTurn:
        """What each turn of each rollout costs; the turns of a run without branches add up to the rollout."""
        values = self._unit.value(self.estimate, self._amounts)
        entries = self.rollouts.entries
        return PerTurn(entries.offsets, values[entries.values])

    @cached_property
    def _amounts(self) -> npt.NDArray[Any]:
        return self._unit.amount(self.estimate)
