"""The engine's own clock: times of requests between two looks at its counters, which no busy client can distort."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kvsim.live.engine import Answer, Counters, LiveEngine

WAIT_S = 0.01
ATTEMPTS = 30
"""The engine counts a request shortly after its last token has left."""


async def counted(engine: LiveEngine, before: Counters | None, requests: int) -> Counters | None:
    """The counters once ``requests`` more have ended than ``before``; None where the engine does not count them."""
    if before is None or not before.prefills:
        return None
    for _ in range(ATTEMPTS):
        now = (await engine.look()).counters
        if now is None or now.prefills >= before.prefills + requests:
            return now
        await asyncio.sleep(WAIT_S)
    return None


def first_token_s(before: Counters | None, after: Counters | None, requests: int) -> float | None:
    """The mean time from a request's first step to its first token; None unless just so many requests ended."""
    if before is None or after is None or after.prefills - before.prefills != requests:
        return None
    return (after.prefill_s - before.prefill_s) / requests or None


def token_gap_s(before: Counters | None, after: Counters | None, answers: Sequence[Answer]) -> float | None:
    """The mean time between two tokens of all answers together; None unless just those requests ended."""
    if before is None or after is None or after.prefills - before.prefills != len(answers):
        return None
    return (after.decode_s - before.decode_s) / sum(len(answer.token_s) - 1 for answer in answers) or None
