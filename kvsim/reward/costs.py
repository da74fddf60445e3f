"""What rollouts cost, and what of it each turn and each tool call is answerable for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim.reward.marginal import costs_without
from kvsim.reward.per_turn import PerTurn
from kvsim.reward.shares import Shares, shares_of
from kvsim.reward.tool_calls import CallCosts, Calls, calls_of, costed

if TYPE_CHECKING:
    from kvsim.estimation import Estimate
    from kvsim.reward.rollouts import Rollouts
    from kvsim.reward.units import Floats, Unit
    from kvsim.trajectory import Ints


class Costs:
    """The costs of rollouts in one unit; ``np.asarray`` gives :attr:`trajectories`. All values are finite.

    ``assumptions`` says what was taken for granted because the rollouts did not say it, and how often. What is not
    asked for is not computed.
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
        that the cost of a rollout does not depend on which others it is priced with (:attr:`shares` does).
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
    def marginal(self) -> PerTurn:
        """What each rollout would have saved without each of its turns: its cost less that without the turn.

        Without a turn (a request and the tool calls it ends in), the next one reads what it read, when it would have
        come; its output, the responses to its calls and the pause for them are gone, from all later contexts too.
        """
        entries = self.rollouts.entries
        whole = np.repeat(self.trajectories, np.diff(entries.offsets))
        return PerTurn(entries.offsets, whole - costs_without(self.rollouts, self.estimate, self._unit))

    @cached_property
    def tool_calls(self) -> CallCosts:
        """Each tool call with what the rollout would have saved without it."""
        return costed(self._calls, self.marginal)

    @cached_property
    def calls(self) -> Ints:
        """How many tool calls each rollout made whose response it read, shape (rollouts,)."""
        return self._calls.counts(len(self))

    @cached_property
    def shares(self) -> Shares:
        """What all rollouts cost together, what they share paid once, and each one's share of that."""
        return shares_of(self.rollouts, self.estimate, self._unit, self.trajectories)

    @property
    def total(self) -> float:
        """What all rollouts cost together, what they share paid once; :attr:`shares` says how it is divided."""
        return self.shares.total

    @cached_property
    def _calls(self) -> Calls:
        return calls_of(self.rollouts)

    @cached_property
    def _amounts(self) -> npt.NDArray[Any]:
        return self._unit.amount(self.estimate)
