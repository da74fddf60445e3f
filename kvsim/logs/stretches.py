"""From stretches of tokens that the model wrote to turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.logs.turns import Turn

Stretch = tuple[int, int]


def stretches_of_mask(mask: npt.ArrayLike) -> list[Stretch]:
    """Where a mask is 1 or True, as half-open ranges."""
    written: npt.NDArray[Any] = np.asarray(mask) == 1
    edges = np.flatnonzero(np.diff(written, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def turns_of_stretches(
    prompt_tokens: int,
    stretches: Iterable[Stretch],
    *,
    pauses_s: Sequence[float | None] = (),
    tools: Sequence[Sequence[str]] = (),
) -> list[Turn]:
    """One turn a stretch of the response that the model wrote; empty stretches are none.

    ``pauses_s`` and ``tools`` have an element for each gap between two stretches; pauses that are not given are not
    measured. A response in which the model wrote nothing is one turn without output.
    """
    ranges = [(begin, end) for begin, end in stretches if end > begin]
    turns = [Turn(prompt_tokens + begin, end - begin) for begin, end in ranges]
    for number, turn in enumerate(turns[1:]):
        turn.pause_s = pauses_s[number] if number < len(pauses_s) else None
        turn.tools = list(tools[number]) if number < len(tools) else []
    return turns or [Turn(prompt_tokens, 0)]


def turns_of_mask(
    prompt_tokens: int,
    mask: npt.ArrayLike,
    *,
    pauses_s: Sequence[float | None] = (),
    total_pause_s: float | None = None,
    tools: Sequence[Sequence[str]] = (),
) -> list[Turn]:
    """The same from a mask over the response, 1 where the model wrote.

    ``total_pause_s``: the sum of the pauses, where only that was measured; it is shared equally.
    """
    stretches = stretches_of_mask(mask)
    if total_pause_s is not None and len(stretches) > 1:
        pauses_s = [total_pause_s / (len(stretches) - 1)] * (len(stretches) - 1)
    return turns_of_stretches(prompt_tokens, stretches, pauses_s=pauses_s, tools=tools)
