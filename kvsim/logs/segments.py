"""What new prompt tokens are made of, by the lengths of the texts they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """A stretch of text on its way into a prompt."""

    kind: str
    """One of :data:`kvsim.trajectory.SEGMENT_KINDS`."""
    tool: str | None
    tokens: int
    """Counted from its text; only the proportions matter where the log has a total."""


def scaled(parts: Sequence[Part], total: int) -> list[tuple[str, str | None, int]]:
    """The parts' tokens in proportion, summing to ``total`` exactly; nothing where there is no text to go by.

    Neighbours of one kind and tool are merged. Rounding follows the running sum, so that no part is off by more
    than one token.
    """
    weight = sum(part.tokens for part in parts)
    if weight <= 0 or total <= 0:
        return []
    merged: list[tuple[str, str | None, int]] = []
    seen = given = 0
    for part in parts:
        seen += part.tokens
        tokens = seen * total // weight - given
        given += tokens
        if merged and merged[-1][:2] == (part.kind, part.tool):
            merged[-1] = (part.kind, part.tool, merged[-1][2] + tokens)
        elif tokens:
            merged.append((part.kind, part.tool, tokens))
    return merged
