"""verifiers (v1): turns from a ``Trace``.

@vf.reward(weight=0.1)
async def thrift(self, trace: vf.Trace) -> float:
    return -float(price(term, [turns(trace)]).trajectories[0])
"""

from __future__ import annotations

from typing import Any

from kvsim.errors import InputError
from kvsim.logs.turns import Turn


def turns(trace: Any) -> list[Turn]:
    """The turns of one rollout: its ``calls`` that report ``usage``, in the order in which they started.

    ``usage.prompt_tokens`` leaves out what the provider read from its cache (``cached_input_tokens``), which is added
    again. What lies between the end of a call and the start of the next is the pause, 0 where calls overlap.
    """
    found: list[Turn] = []
    ended: float | None = None
    for call in sorted(trace.calls, key=lambda call: call.time.start):
        if call.usage is None:
            continue
        timed = bool(call.time.end)
        pause_s = None if ended is None or not timed else max(0.0, call.time.start - ended)
        prompt = call.usage.prompt_tokens + (call.usage.cached_input_tokens or 0)
        found.append(Turn(prompt, call.usage.completion_tokens, pause_s if found else 0.0))
        ended = call.time.end if timed else None
    if not found:
        raise InputError("has no call with usage", field="trace.calls", remedy="Let the endpoint report usage")
    return found
