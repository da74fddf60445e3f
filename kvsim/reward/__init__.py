"""Costs as rewards: :class:`CostTerm` prices rollouts, the functions beside it make rewards of costs."""

from __future__ import annotations

from kvsim.reward.costs import Costs
from kvsim.reward.per_turn import PerTurn
from kvsim.reward.rollouts import Rollouts
from kvsim.reward.term import CostTerm
from kvsim.reward.units import UNITS

__all__ = ["UNITS", "CostTerm", "Costs", "PerTurn", "Rollouts"]
