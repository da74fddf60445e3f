"""A price on cost: for every rollout, or for correct ones only."""

from __future__ import annotations

import numpy.typing as npt

from kvsim.reward.shapes._arguments import Floats, finite, flags, number


def linear(reward: npt.ArrayLike, cost: npt.ArrayLike, weight: float) -> Floats:
    """reward - weight * cost: what the reward is worth less what it cost, at a price per unit of cost."""
    rewards = finite("reward", reward)
    return rewards - number("weight", weight) * finite("cost", cost, rewards)


def penalty_if_correct(
    reward: npt.ArrayLike,
    cost: npt.ArrayLike,
    weight: float,
    *,
    correct: npt.ArrayLike | None = None,
    free: npt.ArrayLike = 0.0,
) -> Floats:
    """reward - weight * max(cost - free, 0) where correct, reward elsewhere.

    The principle of LightSearcher (arXiv 2512.06653): calls beyond what is needed are penalised in rollouts with a
    correct answer only, so that a wrong rollout learns nothing from having been cheap. The paper's own function of
    the number of calls is not reproduced here; the penalty is linear in cost. ``correct``: by default where the
    reward is above 0. ``free``: what costs nothing, a number or one a rollout (say, the cheapest correct rollout).
    """
    rewards = finite("reward", reward)
    over = finite("cost", cost, rewards) - finite("free", free, rewards)
    right = rewards > 0 if correct is None else flags("correct", correct, rewards)
    return rewards - number("weight", weight, least=0) * over.clip(0) * right
