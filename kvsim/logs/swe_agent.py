"""SWE-agent's trajectories (``.traj``): one run a file, its messages (``history``) and its steps (``trajectory``).

There are no token counts a call: they come from the text. Newer versions call tools (``tool_calls``); older ones write
the command into the answer, and what it printed is the next message of the user: that is taken as the response of a
tool named like the command's first word. A step's ``execution_time``, where it has one, is the pause behind it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kvsim.logs.chat import Message
from kvsim.logs.messages import Fact, Facts, add_conversation
from kvsim.logs.reading import Format, Reading, decode
from kvsim.logs.said import Called
from kvsim.logs.source import Source
from kvsim.logs.times import from_seconds


class _Message(Message, kw_only=True):
    action: str | None = None
    tool_call_ids: list[str] | None = None


class _Step(msgspec.Struct):
    execution_time: Annotated[float, Meta(ge=0, le=1e8)] | None = None


class _Run(msgspec.Struct):
    history: list[_Message]
    trajectory: list[_Step] = []
    environment: str | None = None


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Run)
        self._facts = Facts(reading.count, keep_text=reading.keep_text)

    def read(self, source: Source) -> None:
        with self._reading.attempt():
            text = source.whole()
            run = decode(self._decoder, text, source)
            facts = self._facts_of(run.history)
            pauses = [from_seconds(step.execution_time or 0.0) for step in run.trajectory]
            add_conversation(
                self._reading, facts, id=source.stem, pauses_ns=[0, *pauses], source=source, line=text.line
            )

    def _facts_of(self, history: list[_Message]) -> list[Fact]:
        """The messages' facts, commands in answers as calls and what they printed as responses of tools."""
        command = ""
        for message in history:
            if message.role == "assistant":
                command = "" if message.tool_calls else (message.action or "").strip()
            elif message.role == "user" and command:
                message.role, message.name = "tool", command.split()[0]
            elif message.tool_call_ids:
                message.tool_call_id = message.tool_call_ids[0]
        facts = self._facts.of(history)
        return [_with_command(fact, message) for fact, message in zip(facts, history, strict=True)]

    def finish(self) -> None:
        pass


def _with_command(fact: Fact, message: _Message) -> Fact:
    """The fact of an answer whose command stands in its text, with the command as a call where text is kept."""
    command = (message.action or "").strip()
    if not fact.said or message.role != "assistant" or message.tool_calls or not command:
        return fact
    call = Called(command.split()[0], command)
    return fact._replace(said=(fact.said[-1]._replace(calls=(call,)),))


FORMAT = Format(
    name="swe-agent",
    looks_for="a run with 'history' of messages with 'agent', and a 'trajectory' of steps (SWE-agent .traj)",
    matches=lambda paths: (
        {"trajectory[].action", "trajectory[].observation"} <= paths or {"history[].role", "history[].agent"} <= paths
    ),
    reader=_Reader,
)
