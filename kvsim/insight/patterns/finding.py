"""What a detector found, and what a detector is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvsim.insight.transcript import Call, Transcript


class Span(NamedTuple):
    """Where something stands: characters ``begin`` to ``end`` of a part of a message of a trajectory.

    ``part``: ``"text"``, ``"reasoning"`` or ``"calls[i]"`` (the arguments of a call). ``turn`` and ``message`` count
    from 0 within the trajectory.
    """

    trajectory: int
    turn: int
    row: int
    message: int
    part: str
    begin: int
    end: int


class Finding(NamedTuple):
    """One occurrence: where (None: in the counts alone), in which row of the batch, and what, in a few words."""

    row: int
    detail: str
    span: Span | None = None


class TextPattern(Protocol):
    """A pattern that shows in what was said."""

    name: str
    title: str

    def find(self, transcript: Transcript) -> Iterable[Finding]:
        """Its occurrences in one trajectory."""
        ...


def at_call(transcript: Transcript, call: Call, detail: str) -> Finding:
    """A finding at the arguments of a call; its row is the turn that made it."""
    made = call.message
    return Finding(
        made.row, detail, Span(transcript.number, made.turn, made.row, made.number, call.part, call.begin, call.end)
    )


def at_answer(transcript: Transcript, call: Call, detail: str) -> Finding:
    """A finding at the whole response to a call; its row is the turn that read it."""
    answer = call.answer
    assert answer is not None
    span = Span(transcript.number, answer.turn, answer.row, answer.number, "text", 0, len(answer.said.text))
    return Finding(answer.row, detail, span)
