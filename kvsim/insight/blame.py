"""What an attribution blames on tools and on tool calls, the heaviest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kvsim.insight.attribution import Attribution
    from kvsim.result import Table


class Blame(NamedTuple):
    """What responses of a tool (``row`` None) took, or those that one turn read, in it and all turns behind.

    ``tool``: None where the log does not name it. ``calls``: parallel ones that one turn answers are one. Whole
    nanoseconds, as :class:`kvsim.insight.attribution.Attribution` has them; ``recompute_ns`` is of contexts lost in the
    pause. All tools add up to what all calls do: ``fresh_ns`` and ``decode_context_ns`` to the run's of tool responses.
    """

    tool: str | None
    row: int | None
    calls: int
    response_tokens: int
    tool_ns: int
    fresh_ns: int
    recompute_ns: int
    decode_context_ns: int

    @property
    def model_ns(self) -> int:
        """Time in the model."""
        return self.fresh_ns + self.recompute_ns + self.decode_context_ns


_SUMMED = Blame._fields[3:]


def blame_of_tools(made: Attribution) -> list[Blame]:
    """The tools that were called or answered; those without a name together."""
    found = made.tools
    every = [
        Blame(name or None, None, calls, *values)
        for name, calls, *values in zip(made.tool_names, found.calls.tolist(), *_columns(found), strict=True)
    ]
    return _heaviest_first([blame for blame in every if blame.calls or blame.response_tokens])


def blame_of_calls(made: Attribution) -> list[Blame]:
    """The turns that read responses."""
    found, names = made.tool_calls, made.tool_names
    return _heaviest_first(
        [
            Blame(names[tool] or None, row, 1, *values)  # -1, unknown: the last name, which is empty
            for row, tool, *values in zip(found.row.tolist(), found.tool.tolist(), *_columns(found), strict=True)
        ]
    )


def _columns(found: Table) -> list[list[int]]:
    return [found[name].tolist() for name in _SUMMED]


def _heaviest_first(every: Sequence[Blame]) -> list[Blame]:
    return sorted(every, key=lambda blame: -blame.model_ns)
