"""OpenAI-style chat logs, with and without usage.

Either one conversation a record: ``{"id", "messages", "usage"?, "tools"?}`` or a bare list of messages, where each
assistant message is a call and ``usage`` is a list with one object a call, stands in the assistant messages, or is one
object where there is one call. Or one request a record, ``{"messages", "response", "tools"?, "timestamp"?,
"latency_sec"?}`` (``request`` may wrap messages and tools), as LiteLLM's completion logs and the OpenHands SDK write
them, in one file or one file each: see :mod:`kvsim.logs.requests`. There ``timestamp`` is the end:
unix seconds, or RFC 3339.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from kvsim.errors import InputError
from kvsim.logs.chat import Message
from kvsim.logs.messages import Fact, Facts, add_conversation
from kvsim.logs.reading import REMEDY, Format, Reading, decode
from kvsim.logs.requests import Request, Requests
from kvsim.logs.said import Said
from kvsim.logs.shape import key_paths
from kvsim.logs.source import Source, Text
from kvsim.logs.times import from_datetime, from_seconds
from kvsim.logs.usage import Usage


class _Choice(msgspec.Struct):
    message: Message | None = None


class _Response(msgspec.Struct):
    id: str | None = None
    choices: list[_Choice] = []
    usage: Usage | None = None


class _Sent(msgspec.Struct):
    messages: list[Message]
    tools: msgspec.Raw = msgspec.Raw()


class _Record(msgspec.Struct):
    messages: list[Message] | None = None
    request: _Sent | None = None
    response: _Response | None = None
    raw_messages: list[Message] | None = None
    """The messages before the logger rewrote tool calls as text; the response speaks of these."""
    tools: msgspec.Raw = msgspec.Raw()
    usage: Usage | list[Usage | None] | None = None
    id: str | int | None = None
    session_id: str | int | None = None
    conversation_id: str | int | None = None
    trajectory_id: str | int | None = None
    timestamp: Annotated[float, Meta(ge=0, le=1e11)] | str | None = None
    latency_sec: Annotated[float, Meta(ge=0, le=1e8)] | None = None


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Record | list[Message])
        self._facts = Facts(reading.count, keep_text=reading.keep_text)
        self._requests = Requests(reading)

    def read(self, source: Source) -> None:
        bare = source.layout == "array" and "[].role" in key_paths(source.head)
        for text in [source.whole()] if bare else self._reading.texts(source):
            with self._reading.attempt():
                self._record(decode(self._decoder, text, source), source, text)

    def finish(self) -> None:
        self._requests.finish()

    def _record(self, record: _Record | list[Message], source: Source, text: Text) -> None:
        if isinstance(record, list):
            record = _Record(messages=record)
        sent = record.request or _plain(record)
        if sent is None:
            raise InputError("is missing", file=source.name, line=text.line, field="messages", remedy=REMEDY)
        given = bytes(sent.tools) if sent.tools and bytes(sent.tools) not in (b"null", b"[]") else b""
        tools, tools_said = self._facts.raw(given) if given else (0, 0), self._facts.raw_said(given)
        facts = self._facts.of(sent.messages)
        id = str(record.id) if record.id is not None else f"{source.stem}:{text.line}"
        if record.response is None:
            add_conversation(
                self._reading,
                facts,
                id=id,
                usages=_usages(record, sent.messages),
                tools_tokens=tools[0],
                tools_said=tools_said,
                source=source,
                line=text.line,
            )
            return
        self._requests.collect(self._request(record, record.response, id, tools, tools_said, facts, source, text))

    def _request(
        self,
        record: _Record,
        response: _Response,
        id: str,
        tools: tuple[int, int],
        tools_said: tuple[Said, ...],
        facts: list[Fact],
        source: Source,
        text: Text,
    ) -> Request:
        session = next(
            (
                str(name)
                for name in (record.session_id, record.conversation_id, record.trajectory_id)
                if name is not None
            ),
            None,
        )
        said = response.choices
        message = said[0].message if said else None
        usage = response.usage or record.usage
        counts = usage.counts() if isinstance(usage, Usage) else None
        if message is None and counts is None:
            raise InputError(
                "has neither a message nor usage", file=source.name, line=text.line, field="response", remedy=REMEDY
            )
        end_ns = _moment(record.timestamp, source, text)
        start_ns = end_ns - from_seconds(record.latency_sec or 0.0) if end_ns >= 0 else -1
        return Request(
            id=id if record.id is not None else response.id or id,
            session=session,
            source=source,
            line=text.line,
            tools=tools,
            tools_said=tools_said,
            facts=facts,
            answer=self._facts.of([message])[0] if message is not None else None,
            counts=counts,
            start_ns=start_ns,
            end_ns=end_ns,
        )


def _moment(timestamp: float | str | None, source: Source, text: Text) -> int:
    """Nanoseconds since 1970, -1 where no time was logged."""
    if timestamp is None:
        return -1
    if not isinstance(timestamp, str):
        return from_seconds(timestamp)
    try:
        ns = from_datetime(msgspec.convert(timestamp, datetime))
    except msgspec.ValidationError:
        ns = -1
    if ns < 0:
        problem = f"{timestamp!r} is no time since 1970"
        remedy = "Give unix seconds or RFC 3339, such as 2025-01-31T12:00:00Z"
        raise InputError(problem, file=source.name, line=text.line, field="timestamp", remedy=remedy)
    return ns


def _plain(record: _Record) -> _Sent | None:
    messages = record.raw_messages or record.messages
    return _Sent(messages, record.tools) if messages is not None else None


def _usages(record: _Record, messages: list[Message]) -> list[Usage | None] | None:
    """One usage object (or None) a call; None where the record has none at all."""
    if record.usage is not None:
        return record.usage if isinstance(record.usage, list) else [record.usage]
    own = [message.usage for message in messages if message.role == "assistant"]
    return own if any(usage is not None for usage in own) else None


FORMAT = Format(
    name="openai",
    looks_for="'messages' with 'role' (OpenAI chat), alone, with 'usage' or with 'response'; or bare message lists",
    matches=lambda paths: bool(
        {"messages[].role", "request.messages[].role", "[].messages[].role", "[].request.messages[].role", "[].role"}
        & paths
    ),
    reader=_Reader,
)
