"""SkyRL: turns from a ``GeneratorOutput``.

A generator of one's own takes the cost off the rewards before it returns them:

    output = await super().generate(input_batch)
    costs = price(term, rollouts(output)).trajectories
    output["rewards"] = [reward - WEIGHT * cost for reward, cost in zip(output["rewards"], costs)]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvsim.logs.stretches import turns_of_mask
from kvsim.logs.turns import Turn


def rollouts(output: Mapping[str, Any]) -> list[list[Turn]]:
    """The turns of every trajectory of a ``GeneratorOutput``.

    ``prompt_token_ids`` says how long the prompts are, ``loss_masks`` what of ``response_ids`` the model wrote.
    ``trajectory_time_splits["env"]``, where the version has it, is the seconds outside the model: one number a
    trajectory, shared equally among its pauses, or a list with one a step.
    """
    splits = output.get("trajectory_time_splits") or {}
    env_s = splits.get("env") or [None] * len(output["response_ids"])
    return [
        turns_of_mask(
            len(prompt),
            mask,
            pauses_s=list(seconds) if isinstance(seconds, (list, tuple)) else (),
            total_pause_s=None if seconds is None or isinstance(seconds, (list, tuple)) else float(seconds),
        )
        for prompt, mask, seconds in zip(output["prompt_token_ids"], output["loss_masks"], env_s, strict=True)
    ]
