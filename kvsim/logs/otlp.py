"""OpenTelemetry spans of generative AI: OTLP/JSON, an export request a line or a file.

A call is a span of an operation that generates (``gen_ai.operation.name``) or of OpenInference's kind LLM; its counts
are those of ``gen_ai.usage`` (input includes what was cached) or ``llm.token_count``. The calls of a conversation, else
of a trace, are a trajectory; those of one agent span follow each other by their starts, and the first call of an agent
within another comes after the last call that had ended by then. No text is read, so what is kept of a context follows
from the counts. The pause before a call is named by the longest tool span that began in it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Annotated

import msgspec
from msgspec import Meta

from kvsim.errors import InputError
from kvsim.logs.kept import by_lengths
from kvsim.logs.messages import NO_OUTPUT
from kvsim.logs.reading import REMEDY, Format, Reading, decode
from kvsim.logs.source import Source
from kvsim.logs.times import BACKWARDS, from_seconds

GENERATES = {"chat", "generate_content", "text_completion"}
LATEST_NS = 1 << 62
"""Times count nanoseconds from 1970; this is beyond 2100."""

NO_CALL = "span of no model call"
NO_COUNTS = "call without token counts (an error, or not recorded)"
APART = "cached tokens beyond the input: taken as not counted in it"

INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion")
CACHED = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.input_tokens.cached",
    "llm.token_count.prompt_details.cache_read",
)
SESSION = ("gen_ai.conversation.id", "session.id")

Number = int | Annotated[str, Meta(pattern=r"^[0-9]{1,19}$")]
"""64-bit integers stand as strings or as numbers."""


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: int | Annotated[str, Meta(pattern=r"^-?[0-9]{1,19}$")] | None = None
    double_value: float | None = None


class _Attribute(msgspec.Struct):
    key: str
    value: _Value = msgspec.field(default_factory=_Value)


_NOTHING = _Value()


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str
    span_id: str
    start_time_unix_nano: Number
    end_time_unix_nano: Number
    name: str = ""
    parent_span_id: str | None = None
    attributes: list[_Attribute] = []


class _Scope(msgspec.Struct, rename="camel"):
    spans: list[_Span] = []


class _Resource(msgspec.Struct, rename="camel"):
    scope_spans: list[_Scope] = []


class _Export(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resource] = []


@dataclass(frozen=True)
class _Work:
    """A call or a tool: when, of which trace, under which span."""

    trace: str
    above: str
    session: str
    start_ns: int
    end_ns: int
    tool: str = ""
    prompt: int = 0
    output: int = 0
    cached: int = -1
    ttft_ns: int = -1
    source: Source | None = None
    line: int = 0


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Export)
        self._above: dict[tuple[str, str], tuple[str, bool]] = {}  # of each span: its parent, whether it is an agent
        self._agents: dict[tuple[str, str], str] = {}  # of each span: the agent that it is or lies under
        self._sessions: dict[str, str] = {}  # of each trace that names one
        self._calls: list[_Work] = []
        self._tools: list[_Work] = []

    def read(self, source: Source) -> None:
        for text in self._reading.texts(source):
            with self._reading.attempt():
                export = decode(self._decoder, text, source)
                spans = [span for part in export.resource_spans for scope in part.scope_spans for span in scope.spans]
                found = [self._work(span, source, text.line) for span in spans]  # all of a text or none
                for span, (operation, work) in zip(spans, found, strict=True):
                    self._above[span.trace_id, span.span_id] = (span.parent_span_id or "", operation == "invoke_agent")
                    if work is not None and work.session:
                        self._sessions.setdefault(span.trace_id, work.session)
                    self._collect(operation, work)
                if not spans:
                    self._reading.report.skip("export without spans")

    def _collect(self, operation: str, work: _Work | None) -> None:
        if operation in GENERATES and work is not None:
            if work.prompt:
                self._calls.append(work)
            else:
                self._reading.report.skip(NO_COUNTS)
            return
        if operation == "execute_tool" and work is not None:
            self._reading.report.tool_results += 1
            self._tools.append(work)
        self._reading.report.skip(NO_CALL)

    def _work(self, span: _Span, source: Source, line: int) -> tuple[str, _Work]:
        told = {attribute.key: attribute.value for attribute in span.attributes}
        kind = (_text(told, ("openinference.span.kind",)) or "").lower()
        operation = _text(told, ("gen_ai.operation.name",)) or {
            "llm": "chat",
            "tool": "execute_tool",
            "agent": "invoke_agent",
        }.get(kind, "")
        start_ns, end_ns = int(span.start_time_unix_nano), int(span.end_time_unix_nano)
        if not 0 <= start_ns <= end_ns < LATEST_NS:
            raise InputError(
                f"is {end_ns}, the start {start_ns}: no span of time",
                file=source.name,
                line=line,
                field="endTimeUnixNano",
                remedy=REMEDY,
            )
        ttft_s = told.get("gen_ai.response.time_to_first_chunk", _NOTHING).double_value
        return operation, _Work(
            trace=span.trace_id,
            above=span.parent_span_id or "",
            session=_text(told, SESSION) or "",
            start_ns=start_ns,
            end_ns=end_ns,
            tool=_text(told, ("gen_ai.tool.name", "tool.name")) or span.name.removeprefix("execute_tool").strip(),
            prompt=max(_count(told, INPUT), 0),
            output=max(_count(told, OUTPUT), 0),
            cached=_count(told, CACHED),
            ttft_ns=from_seconds(ttft_s) if ttft_s is not None and 0 <= ttft_s < 1e8 else -1,
            source=source,
            line=line,
        )

    def finish(self) -> None:
        """Add the calls of each conversation, the one that begins first at time 0."""
        of = defaultdict(list)
        for call in sorted(self._calls, key=lambda call: call.start_ns):
            of[self._session(call)].append(call)
        tools = defaultdict(list)
        for tool in self._tools:
            tools[self._session(tool)].append(tool)
        first_ns = min((calls[0].start_ns for calls in of.values()), default=0)
        for session, calls in of.items():
            with self._reading.attempt(len(calls)):
                trajectory = self._reading.trajectory(session, calls[0].source, calls[0].line, len(calls))
                self._add(calls, tools[session], trajectory, first_ns)

    def _session(self, work: _Work) -> str:
        return work.session or self._sessions.get(work.trace, work.trace)

    def _add(self, calls: list[_Work], tools: list[_Work], trajectory: int, first_ns: int) -> None:
        chains = _Chains()
        tools.sort(key=lambda tool: tool.start_ns)
        running: list[tuple[int, int]] = []  # a heap of ends and rows
        ended: tuple[int, int] = (-1, -1)  # the last of those that ended before the call at hand began
        for call in calls:
            while running and running[0][0] <= call.start_ns:
                ended = max(ended, heappop(running))
            chain = chains.of(call.trace, self._agent(call))
            prompt, kept, (after_ns, after) = call.prompt, 0, ended
            if call.cached > prompt:
                prompt += call.cached
                self._reading.report.flag(APART)
            if chain.row >= 0:
                kept, remark = by_lengths(prompt, call.cached, chain.prompt, chain.output)
                if remark:
                    self._reading.report.flag(remark)
                after_ns, after = chain.end_ns, chain.row
            pause_ns = call.start_ns - after_ns if after >= 0 else 0
            if pause_ns < 0:
                self._reading.report.flag(BACKWARDS)
            if not call.output:
                self._reading.report.flag(NO_OUTPUT)
            row = self._reading.builder.turn(
                trajectory=trajectory,
                parent=chain.row,
                after=after,
                kept_tokens=kept,
                prompt_tokens=prompt,
                output_tokens=call.output,
                pause_ns=max(0, pause_ns),
                arrival_ns=call.start_ns - first_ns if after < 0 else 0,
                tool=_longest(tools, after_ns, call.start_ns) if after >= 0 else None,
                cached_tokens=call.cached,
                ttft_ns=call.ttft_ns,
                e2e_ns=call.end_ns - call.start_ns,
            )
            chain.row, chain.prompt, chain.output, chain.end_ns = row, prompt, call.output, call.end_ns
            heappush(running, (call.end_ns, row))

    def _agent(self, call: _Work) -> str:
        """The nearest agent span above, else nothing."""
        at, passed = call.above, []
        agent: str | None = None
        while agent is None:
            key = (call.trace, at)
            above, is_agent = self._above.pop(key, ("", False))  # popped, so that no circle is walked twice
            passed.append((key, (above, is_agent)))
            agent = self._agents.get(key, at if is_agent else None if above else "")
            at = above
        for key, entry in passed:
            self._above[key] = entry
            self._agents[key] = agent
        return agent


@dataclass
class _Chain:
    """Calls that extend each other: the last of them; row -1 before the first."""

    row: int = -1
    prompt: int = 0
    output: int = 0
    end_ns: int = -1


class _Chains:
    """The chains of a conversation: one an agent. In another trace the conversation goes on where it was."""

    def __init__(self) -> None:
        self._by_agent: dict[tuple[str, str], _Chain] = {}
        self._traces: set[str] = set()
        self._latest: _Chain | None = None

    def of(self, trace: str, agent: str) -> _Chain:
        """The chain that a call of an agent belongs to."""
        if (trace, agent) not in self._by_agent:
            goes_on = self._latest if trace not in self._traces else None
            self._by_agent[trace, agent] = goes_on or _Chain()
        self._traces.add(trace)
        self._latest = self._by_agent[trace, agent]
        return self._latest


def _longest(tools: Sequence[_Work], begin_ns: int, end_ns: int) -> str | None:
    """The longest of the tools that began in a pause; tools are in the order of their starts."""
    between = slice(
        bisect_left(tools, begin_ns, key=lambda tool: tool.start_ns),
        bisect_left(tools, end_ns, key=lambda tool: tool.start_ns),
    )
    ran = [tool for tool in tools[between] if tool.tool]
    return max(ran, key=lambda tool: (tool.end_ns - tool.start_ns, tool.tool)).tool if ran else None


def _text(told: dict[str, _Value], names: Iterable[str]) -> str | None:
    return next((told[name].string_value for name in names if name in told and told[name].string_value), None)


def _count(told: dict[str, _Value], names: Iterable[str]) -> int:
    """The first count that is there; -1 for none."""
    for name in names:
        value = told.get(name, _NOTHING)
        if value.int_value is not None:
            return int(value.int_value)
        if value.double_value is not None and abs(value.double_value) < 1e15:
            return round(value.double_value)
    return -1


FORMAT = Format(
    name="otlp",
    looks_for="OTLP/JSON with 'resourceSpans', their 'scopeSpans' and 'spans'",
    matches=lambda paths: "resourceSpans[].scopeSpans" in paths,
    reader=_Reader,
)
