"""OpenRLHF: turns from the ``action_ranges`` of an agent's rollout.

In the agent's file, ``AgentExecutor`` (a ``MultiTurnAgentExecutor``) takes the cost off the reward:

    async def execute(self, *args, **kwargs):
        response = await super().execute(*args, **kwargs)
        response["reward"] -= WEIGHT * float(price(term, [turns(response)]).trajectories[0])
        return response
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvsim.logs.stretches import turns_of_stretches
from kvsim.logs.turns import Turn


def turns(
    response: Mapping[str, Any], *, pauses_s: Sequence[float | None] = (), tools: Sequence[Sequence[str]] = ()
) -> list[Turn]:
    """The turns of one rollout.

    response: what ``MultiTurnAgentExecutor.execute`` returns. ``action_ranges`` are half-open ranges of
        ``observation_tokens`` that the model wrote; all before one is its prompt.
    pauses_s, tools: the time and the names of tools after each action, which OpenRLHF does not record.
    """
    ranges = [(int(begin), int(end)) for begin, end in response["action_ranges"]]
    if not any(end > begin for begin, end in ranges):
        return [Turn(ranges[0][0] if ranges else len(response["observation_tokens"]), 0)]
    return turns_of_stretches(0, ranges, pauses_s=pauses_s, tools=tools)
