"""Shapes: small functions from rewards and costs to rewards or advantages, each with its source and its formula.

All take and give arrays with one value a rollout (or :class:`kvsim.reward.PerTurn`). What they give is finite, for
groups that are all wrong, all right or all equal too; what they are given must be. ``groups`` is one value a rollout,
or the size of groups that stand one after the other.
"""

from __future__ import annotations

from kvsim.reward.shapes.budget import clipped_budget, remaining_budget, within_budget
from kvsim.reward.shapes.conditional import Channels, hdpo, inverse_calls
from kvsim.reward.shapes.group import cost_advantage, group_relative
from kvsim.reward.shapes.linear import linear, penalty_if_correct
from kvsim.reward.shapes.optimal_calls import fewest_calls, otc_grpo, otc_ppo
from kvsim.reward.shapes.tree import fork_relative, shared_steps

__all__ = [
    "Channels",
    "clipped_budget",
    "cost_advantage",
    "fewest_calls",
    "fork_relative",
    "group_relative",
    "hdpo",
    "inverse_calls",
    "linear",
    "otc_grpo",
    "otc_ppo",
    "penalty_if_correct",
    "remaining_budget",
    "shared_steps",
    "within_budget",
]
