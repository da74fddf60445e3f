"""OpenHands ``output.jsonl``: one session a line, its events (``history``) and the calls' counts (``metrics``).

Usage and latency of a call are joined on ``response_id``; usage decides what a call is. A call's end is the time of the
first action that carries its response (observations repeat the response and are not counted), its start is that less
the latency; the pause before it runs from the previous call's end to its start. Prompt counts include what was cached.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from kvsim.logs.chat import Message
from kvsim.logs.kept import REWRITTEN, by_lengths
from kvsim.logs.messages import NO_OUTPUT
from kvsim.logs.reading import Format, Reading, decode
from kvsim.logs.said import Exchange, Said, said_of
from kvsim.logs.segments import Part, scaled
from kvsim.logs.source import Source
from kvsim.logs.times import BACKWARDS, from_datetime, from_seconds

Count = Annotated[int, Meta(ge=0, le=1 << 30)]
NO_USAGE = "latency without usage (a call whose answer was not used)"


class _Response(msgspec.Struct):
    id: str = ""
    choices: msgspec.Raw = msgspec.Raw()
    """Read only where text is kept."""


class _Choice(msgspec.Struct):
    message: Message | None = None


class _ToolCall(msgspec.Struct):
    function_name: str | None = None
    tool_call_id: str | None = None
    model_response: _Response | None = None


class _Args(msgspec.Struct):
    content: str | None = None
    tools: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct):
    id: int | None = None
    timestamp: datetime | None = None
    source: str | None = None
    action: str | None = None
    observation: str | None = None
    cause: int | None = None
    content: str | None = None
    args: _Args | None = None
    tool_call_metadata: _ToolCall | None = None


class _TokenUsage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count
    response_id: str
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0


class _Latency(msgspec.Struct):
    latency: Annotated[float, Meta(ge=0, le=1e8)]
    response_id: str


class _Metrics(msgspec.Struct):
    token_usages: list[_TokenUsage] = []
    response_latencies: list[_Latency] = []


class _Session(msgspec.Struct):
    instance_id: str | int
    history: list[_Event] | None = None
    metrics: _Metrics | None = None


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Session)
        self._choices = msgspec.json.Decoder(list[_Choice])

    def read(self, source: Source) -> None:
        roots: list[tuple[int, int]] = []
        for text in self._reading.texts(source):
            with self._reading.attempt() as attempt:
                session = decode(self._decoder, text, source)
                metrics = session.metrics or _Metrics()
                calls = {usage.response_id: usage for usage in metrics.token_usages}
                known = len(metrics.token_usages)
                unused = sum(latency.response_id not in calls for latency in metrics.response_latencies)
                attempt.records = max(1, known + unused)
                if unused:
                    self._reading.report.skip(NO_USAGE, unused)
                if not known:
                    if not unused:
                        self._reading.report.skip("session without calls")
                    continue
                if known > len(calls):
                    self._reading.report.skip("usage repeated for one response", known - len(calls))
                self._reading.trajectory(str(session.instance_id), source, text.line, len(calls))
                roots.append(self._add(session, list(calls.values()), metrics))
        first = min((start for _, start in roots if start >= 0), default=0)
        for row, start in roots:
            self._reading.builder.set(row, arrival_ns=max(0, start - first))

    def finish(self) -> None:
        pass

    def _add(self, session: _Session, calls: list[_TokenUsage], metrics: _Metrics) -> tuple[int, int]:
        """Add a session's turns; returns its first row and when it started (-1 unknown)."""
        latencies = {latency.response_id: from_seconds(latency.latency) for latency in metrics.response_latencies}
        ends, before = self._events(session, {call.response_id for call in calls})
        said = self._said(session, {call.response_id for call in calls}) if self._reading.keep_text else {}
        root = parent = -1
        root_start = -1
        previous: _TokenUsage | None = None
        previous_end = -1
        for call in calls:
            kept, remark = 0, None
            if previous is not None:
                kept, remark = by_lengths(
                    call.prompt_tokens, call.cache_read_tokens, previous.prompt_tokens, previous.completion_tokens
                )
            parts = before.get(call.response_id, [])
            if remark == REWRITTEN and previous is not None:
                parts = [Part("own", None, previous.completion_tokens), *parts]
            elif remark:
                parts = []
            if remark:
                self._reading.report.flag(remark)
            if not call.completion_tokens:
                self._reading.report.flag(NO_OUTPUT)
            end, latency = ends.get(call.response_id, -1), latencies.get(call.response_id, -1)
            start = end - latency if end >= 0 and latency >= 0 else end
            pause = start - previous_end if start >= 0 and previous_end >= 0 else 0
            if pause < 0:
                self._reading.report.flag(BACKWARDS)
            waited = [part.tool for part in parts if part.tool]
            parent = self._reading.builder.turn(
                parent=parent,
                kept_tokens=kept,
                prompt_tokens=call.prompt_tokens,
                output_tokens=call.completion_tokens,
                pause_ns=max(0, pause),
                tool=waited[-1] if waited else None,
                segments=scaled(parts, call.prompt_tokens - kept),
                cached_tokens=call.cache_read_tokens if call.cache_read_tokens else -1,
                e2e_ns=latency,
                said=said.get(call.response_id),
            )
            if root < 0:
                root, root_start = parent, start
            previous, previous_end = call, end
        return root, root_start

    def _events(self, session: _Session, calls: set[str]) -> tuple[dict[str, int], dict[str, list[Part]]]:
        """When each call ended, and what was said between the previous call and it."""
        ends: dict[str, int] = {}
        before: dict[str, list[Part]] = {}
        news: list[Part] = []
        count = self._reading.count
        for event in session.history or ():
            call = event.tool_call_metadata
            response = call.model_response.id if call is not None and call.model_response is not None else ""
            if event.observation is not None:
                if call is not None:
                    self._reading.report.tool_results += 1
                    news.append(Part("tool", call.function_name, count(event.content or "")))
            elif event.action == "system" and event.args is not None:
                news.append(Part("system", None, count(event.args.content or "")))
                if event.args.tools:
                    news.append(Part("tools", None, count(bytes(event.args.tools).decode("utf-8", "replace"))))
            elif event.action == "message" and event.source == "user" and event.args is not None:
                news.append(Part("user", None, count(event.args.content or "")))
            elif event.action is not None and response in calls and response not in ends:
                before[response], news = news, []
                if event.timestamp is not None:
                    ends[response] = from_datetime(event.timestamp)
        return ends, before

    def _said(self, session: _Session, calls: set[str]) -> dict[str, Exchange]:
        """What was said in each call, by the same events."""
        found: dict[str, Exchange] = {}
        read: list[Said] = []
        for event in session.history or ():
            call = event.tool_call_metadata
            response = call.model_response if call is not None else None
            if event.observation is not None:
                if call is not None:
                    read.append(Said("tool", event.content or "", tool=call.function_name, call_id=call.tool_call_id))
            elif event.action == "system" and event.args is not None:
                read.append(Said("system", event.args.content or ""))
                if event.args.tools:
                    read.append(Said("tools", bytes(event.args.tools).decode("utf-8", "replace")))
            elif event.action == "message" and event.source == "user" and event.args is not None:
                read.append(Said("user", event.args.content or ""))
            elif (
                event.action is not None and response is not None and response.id in calls and response.id not in found
            ):
                found[response.id] = Exchange(tuple(read), self._written(response))
                read = []
        return found

    def _written(self, response: _Response) -> Said | None:
        """The answer that a call's response carries; None where it is not to be read."""
        try:
            choices = self._choices.decode(response.choices) if bytes(response.choices) else []
        except msgspec.ValidationError:
            return None
        message = choices[0].message if choices else None
        return said_of(message, {})[-1] if message is not None else None


FORMAT = Format(
    name="openhands",
    looks_for="lines with 'instance_id', 'history' and 'metrics' (OpenHands output.jsonl)",
    matches=lambda paths: (
        "instance_id" in paths and bool({"history[].action", "history[].timestamp", "metrics.token_usages"} & paths)
    ),
    reader=_Reader,
)
