"""verl-tool: turns from the response mask and the ``tool_interact_info`` of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from kvsim.logs.stretches import turns_of_mask
from kvsim.logs.turns import Turn


def turns(
    prompt_tokens: int, response_mask: npt.ArrayLike, tool_interact_info: Sequence[Mapping[str, Any]]
) -> list[Turn]:
    """The turns of one rollout.

    response_mask: of the response's tokens without padding, 1 where the model wrote, as
        ``actor_rollout_ref.agent.mask_observations`` makes it.
    tool_interact_info: what ``AgentLoopOutput.extra_fields`` has under this name, one mapping a call of the tool
        server. Of it ``processing_time_ms`` (and ``queue_time_ms``) is the pause, where the server gives it. A call
        without observation leaves no gap in the mask: its time counts for the next one.
    """
    pauses_s: list[float | None] = []
    waited_s: float | None = 0.0
    for call in tool_interact_info:
        milliseconds = call.get("processing_time_ms")
        if waited_s is not None and milliseconds is not None:
            waited_s += (milliseconds + (call.get("queue_time_ms") or 0.0)) / 1000
        else:
            waited_s = None
        if str(call.get("obs") or ""):
            pauses_s.append(waited_s)
            waited_s = 0.0
    return turns_of_mask(prompt_tokens, response_mask, pauses_s=pauses_s)
