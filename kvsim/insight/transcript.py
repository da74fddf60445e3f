"""What was said in a trajectory, as detectors need it: messages in order, and tool calls beside what came of them.

The text is that of the readers in :mod:`kvsim.logs`. Agents that call tools in their text (``<tool_call>``,
``<function=...>``, one block of shell code) are read as if they had called them; what they then read from the user is
the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.logs.said import Exchange, Said

if TYPE_CHECKING:
    import os

    from kvsim.logs.source import Paths, Progress
    from kvsim.trajectory import Batch

#: Calls in text, the first that is found anywhere in an answer: how the tool is called and where its arguments stand.
_TEXTUAL = (
    (re.compile(r"<tool_call>(?P<arguments>.*?)(?:</tool_call>|\Z)", re.DOTALL), None),
    (re.compile(r"<function=(?P<name>[^>\n]+)>(?P<arguments>.*?)(?:</function>|\Z)", re.DOTALL), None),
    (re.compile(r"```(?:mswea_bash_command|bash|sh|shell)\n(?P<arguments>.*?)\n?```", re.DOTALL), "bash"),
)
_JSON_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')


class Message(NamedTuple):
    """A message: its ``number`` in the trajectory, the turn that read or wrote it, and its row in the batch."""

    number: int
    turn: int
    row: int
    said: Said


class Call(NamedTuple):
    """A tool call, and what it brought.

    ``message``: of the answer that made it; ``part`` of it (``"calls[i]"`` or ``"text"``) and the characters
    there that its arguments take. ``answer``: the response, None where none was logged.
    """

    message: Message
    part: str
    begin: int
    end: int
    name: str | None
    arguments: str
    id: str | None
    answer: Message | None


@dataclass(frozen=True, eq=False)
class Transcript:
    """What was said in one trajectory."""

    number: int
    id: str
    messages: Sequence[Message]

    @cached_property
    def calls(self) -> list[Call]:
        """All tool calls, in order."""
        found: list[Call] = []
        made: list[Call] = []
        read: list[Message] = []
        for message in self.messages:
            if message.said.role != "assistant":
                read.append(message)
                continue
            found += _with_answers(made, read)
            made, read = list(_calls_in(message)), []
        return found + _with_answers(made, read)

    def wrote(self) -> Iterator[Message]:
        """The messages that the model wrote."""
        return (message for message in self.messages if message.said.role == "assistant")


class Transcripts:
    """The transcripts of a batch, by number of trajectory, as far as its logs carry text."""

    def __init__(self, batch: Batch, said: Mapping[int, Exchange]) -> None:
        self.batch = batch
        self._said = said

    @classmethod
    def read(
        cls,
        paths: Paths,
        format: str = "auto",
        *,
        lenient: bool = False,
        tokenizer: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Transcripts:
        """Read logs with their text; arguments as :func:`kvsim.read` has them. ``.batch`` is what that gives."""
        from kvsim.logs import read_with_text

        return cls(*read_with_text(paths, format, lenient=lenient, tokenizer=tokenizer, progress=progress))

    @cached_property
    def by_trajectory(self) -> dict[int, Transcript]:
        """Those that say something, by number of trajectory."""
        batch = self.batch
        order = np.argsort(batch.trajectory, kind="stable")
        found: dict[int, list[Message]] = {}
        turns: dict[int, int] = {}
        for row, owner in zip(order.tolist(), batch.trajectory[order].tolist(), strict=True):
            turn = turns.get(owner, 0)
            turns[owner] = turn + 1
            if row in self._said:
                messages = found.setdefault(owner, [])
                read, wrote = self._said[row]
                for said in (*read, *((wrote,) if wrote is not None else ())):
                    messages.append(Message(len(messages), turn, row, said))
        return {owner: Transcript(owner, str(batch.ids[owner]), messages) for owner, messages in found.items()}

    def __len__(self) -> int:
        return len(self.by_trajectory)

    def select(self, trajectories: Sequence[int]) -> Transcripts:
        """Those of these trajectories only, as :meth:`kvsim.Batch.select` renumbers them."""
        batch = self.batch.select(trajectories)
        rows = np.flatnonzero(np.isin(self.batch.trajectory, trajectories)).tolist()
        return Transcripts(batch, {new: self._said[old] for new, old in enumerate(rows) if old in self._said})


def _calls_in(message: Message) -> Iterator[Call]:
    said = message.said
    if said.calls:
        for number, call in enumerate(said.calls):
            yield Call(message, f"calls[{number}]", 0, len(call.arguments), call.name, call.arguments, call.id, None)
        return
    for pattern, name in _TEXTUAL:
        if found := list(pattern.finditer(said.text)):
            for match in found:
                arguments = match["arguments"]
                begin, end = match.span("arguments")
                inner = _JSON_NAME.search(arguments)
                named = match.groupdict().get("name") or name or (inner[1] if inner else None)
                yield Call(message, "text", begin, end, named, arguments, None, None)
            return


def _with_answers(calls: list[Call], read: list[Message]) -> list[Call]:
    """Calls beside their responses: by id where the log has them, else in order; textual ones share the user's."""
    if not calls:
        return []
    answers = [message for message in read if message.said.role == "tool"]
    by_id = {message.said.call_id: message for message in answers if message.said.call_id}
    if calls[0].part == "text" and not answers:
        users = [message for message in read if message.said.role == "user"]
        return [call._replace(answer=users[0] if users else None) for call in calls]
    unnamed = [message for message in answers if not message.said.call_id]
    paired = []
    for call in calls:
        answer = by_id.get(call.id) if call.id else None
        if answer is None and unnamed:
            answer = unnamed.pop(0)
        paired.append(call._replace(answer=answer))
    return paired
