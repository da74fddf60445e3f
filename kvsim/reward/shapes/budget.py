"""Budgets: a penalty that sets in late and ends, a reward that ends with the budget, what is left at each turn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.reward.per_turn import PerTurn
from kvsim.reward.shapes._arguments import Floats, finite, number


def clipped_budget(
    reward: npt.ArrayLike, cost: npt.ArrayLike, *, free: float, limit: float, weight: float = 1.0
) -> Floats:
    """reward - weight * clip((cost - free) / (limit - free), 0, 1).

    The soft punishment of overlong answers in DAPO (arXiv 2503.14476, with cost for length, ``limit``
    for L_max and ``limit - free`` for L_cache): nothing up to ``free``, all of ``weight`` from ``limit`` on.
    """
    rewards = finite("reward", reward)
    costs = finite("cost", cost, rewards)
    begin, end = number("free", free), number("limit", limit)
    if end <= begin:
        raise InputError(f"is {limit}, not above free ({free})", field="limit", remedy="Give a limit above it")
    return rewards - number("weight", weight) * ((costs - begin) / (end - begin)).clip(0, 1)


def within_budget(reward: npt.ArrayLike, cost: npt.ArrayLike, budget: npt.ArrayLike) -> Floats:
    """reward where cost <= budget, else at most 0: an answer that comes after the budget is spent is none."""
    rewards = finite("reward", reward)
    affordable = finite("cost", cost, rewards) <= finite("budget", budget, rewards)
    return np.where(affordable, rewards, np.minimum(rewards, 0.0))


def remaining_budget(turns: PerTurn, budget: npt.ArrayLike) -> PerTurn:
    """The part of its budget that each rollout has left after each of its turns, from 1 down to 0.

    left = max(budget - costs of the turns so far, 0) / budget: what Budget-Aware Tool-Use (BATS, arXiv 2511.17006)
    tells an agent before every step, with calibrated costs for its counts of calls. ``turns``: ``Costs.turns``;
    ``budget`` above 0, in the same unit, a number or one a rollout. A turn's reward can be weighted with it, and an
    environment can print it into the next observation.
    """
    budgets = finite("budget", budget, np.zeros(len(turns)), least=0)
    if (budgets == 0).any():
        raise InputError("is 0", field="budget", remedy="Give a budget above 0")
    owner = np.repeat(np.arange(len(turns)), np.diff(turns.offsets))
    spent = np.cumsum(turns.values)
    before = np.concatenate([[0.0], spent])[turns.offsets[:-1]]
    left = (budgets[owner] - (spent - before[owner])) / budgets[owner]
    return PerTurn(turns.offsets, left.clip(0, 1))
