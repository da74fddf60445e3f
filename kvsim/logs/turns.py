"""The turns of one rollout as counts: what the adapters of trainers record, dumps carry and readers take.

In a dump they stand in the field ``kvsim_turns``, as JSON or as its text:

    [{"prompt_tokens": 900, "output_tokens": 120},
     {"prompt_tokens": 1500, "output_tokens": 80, "pause_s": 2.0, "tools": ["search"]}]

Each prompt extends what the turn before it was sent and wrote. ``pause_s`` precedes the turn; null says that nobody
measured it. ``tools`` were called in the pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kvsim.errors import InputError
from kvsim.logs.kept import by_lengths
from kvsim.logs.messages import NO_OUTPUT
from kvsim.logs.reading import REMEDY, Reading
from kvsim.logs.said import Exchange
from kvsim.logs.source import Source
from kvsim.logs.times import from_seconds

FIELD = "kvsim_turns"

#: Remarks for ``ReadReport.flagged``.
NO_PAUSE = "time of tools not logged: pause taken as 0"
EMPTY_PROMPT = "prompt of 0 tokens: taken as 1"

_Count = Annotated[int, Meta(ge=0, le=1 << 30)]


class Turn(msgspec.Struct, omit_defaults=True):
    """One call of the model."""

    prompt_tokens: _Count
    """All of its prompt."""
    output_tokens: _Count
    pause_s: Annotated[float, Meta(ge=0, le=1e8)] | None = 0.0
    """From the finish of the turn before to this one; None: not measured."""
    tools: list[str] = []
    """What was called in the pause."""


_decoder = msgspec.json.Decoder(list[Turn])


def dump(turns: Sequence[Turn]) -> str:
    """The turns as JSON text, as dumps carry them."""
    return msgspec.json.encode(turns).decode()


def load(given: Any, *, file: str | None = None, line: int | None = None) -> list[Turn]:
    """Turns from JSON text, or from lists of mappings or of :class:`Turn`.

    Raises :class:`InputError` naming the field, and the file and line given.
    """
    try:
        if isinstance(given, (str, bytes)):
            return _decoder.decode(given)
        return msgspec.convert(given, list[Turn], from_attributes=True)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        remedy = "Give it as the adapters of kvsim.trainers write it"
        raise InputError(str(error), file=file, line=line, field=FIELD, remedy=remedy) from None


def kept_tokens(turn: Turn, before: Turn | None) -> int:
    """How much of the turn's prompt the engine has seen in the turn before it."""
    if before is None:
        return 0
    prompt = max(turn.prompt_tokens, 1)
    return by_lengths(prompt, -1, max(before.prompt_tokens, 1), before.output_tokens)[0]


def add_turns(
    reading: Reading,
    turns: Sequence[Turn],
    *,
    id: str,
    source: Source,
    line: int | None,
    estimated: bool = False,
    said: Sequence[Exchange] = (),
) -> None:
    """Add a rollout as one trajectory made of one record.

    ``estimated``: its tokens were counted from text. ``said``: what was said in each turn, where text is kept.
    """
    report, builder = reading.report, reading.builder
    if not turns:
        raise InputError("has no turn", file=source.name, line=line, field=FIELD, remedy=REMEDY)
    reading.trajectory(id, source, line, 1)
    parent, before = -1, None
    for number, turn in enumerate(turns):
        kept, prompt = kept_tokens(turn, before), max(turn.prompt_tokens, 1)
        report.tool_results += len(turn.tools)
        for remark in _remarks(turn, first=before is None):
            report.flag(remark)
        parent = builder.turn(
            parent=parent,
            kept_tokens=kept,
            prompt_tokens=prompt,
            output_tokens=turn.output_tokens,
            pause_ns=from_seconds(turn.pause_s or 0.0),
            tool=turn.tools[-1] if turn.tools else None,
            estimated_tokens=prompt - kept + turn.output_tokens if estimated else 0,
            said=said[number] if len(said) == len(turns) else None,
        )
        before = turn


def _remarks(turn: Turn, *, first: bool) -> Iterable[str]:
    if turn.pause_s is None and not first:
        yield NO_PAUSE
    if not turn.prompt_tokens:
        yield EMPTY_PROMPT
    if not turn.output_tokens:
        yield NO_OUTPUT
