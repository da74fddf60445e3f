"""Claude Code session files (``~/.claude/projects/*/<session>.jsonl``), sub-agents included.

What the format has in store, and what is made of it:

- One API message is spread over several records that repeat its ``usage``: records of one ``message.id`` are one call.
- ``input_tokens`` is without what was cached: the prompt is input + cache creation + cache read.
- ``output_tokens`` is in some versions the count at the start of the stream, and never updated: the largest of a
  message's records is taken, and where even that is less than half of what its content amounts to, the content is
  counted instead (estimated and flagged).
- A session forks where the user goes back: ``parentUuid`` leads to the call that a prompt extends; where it leads
  nowhere (a compacted context, old versions) the agent's previous call is taken.
- Sub-agents ("sidechains") stand in the session's file or, with the same ``sessionId``, in files of their own. A
  sub-agent's first call comes after the main agent's last call before it; the first main call that begins after the
  sub-agent's end waits for it.
- A call begins when the last result or user message before it came in. Where a tool's runner reports its own duration
  (``toolUseResult.durationMs``) that is preferred to when the result was written down, which includes permission
  prompts. It ends with its last record; what of a tool ran before that counts as no pause.
- ``<synthetic>`` models are messages of the client, no calls. Lines that are no records of a call are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kvsim.errors import InputError
from kvsim.logs.kept import by_lengths
from kvsim.logs.messages import AFTER_LAST_CALL, NO_OUTPUT, NO_OUTPUT_COUNT, TEMPLATE_TOKENS
from kvsim.logs.reading import REMEDY, Format, Reading, decode
from kvsim.logs.said import Called, Exchange, Said
from kvsim.logs.segments import Part, scaled
from kvsim.logs.source import Source, Text
from kvsim.logs.times import BACKWARDS, NS_PER_MS, from_datetime
from kvsim.logs.usage import Counts, Usage

STALE_OUTPUT = "stale output count: counted from the content"
NO_USAGE = "no usage: counted from text"
ELSEWHERE = "call also in another file (a resumed session?)"
SYNTHETIC = "synthetic message"

#: An output count is stale below this share of what the content amounts to, and only if this many tokens are missing.
_STALE_SHARE = 0.5
_STALE_TOKENS = 8


class _Block(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    tool_use_id: str | None = None
    content: str | list[_Block | str] | None = None
    is_error: bool | None = None


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    content: str | list[_Block | str] | None = None
    usage: Usage | None = None


class _Record(msgspec.Struct, rename="camel"):
    type: str | None = None
    uuid: str | None = None
    parent_uuid: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    is_sidechain: bool = False
    timestamp: datetime | None = None
    message: _Message | str | None = None
    tool_use_result: msgspec.Raw = msgspec.Raw()


class _RunnerReport(msgspec.Struct, rename="camel"):
    duration_ms: Annotated[float, Meta(ge=0, le=1e11)] | None = None


_NOTHING = Counts(0, 0, -1)


@dataclass(frozen=True)
class _News:
    """A user message or tool result on its way into the next prompt."""

    line: int
    part: Part
    at_ns: int
    """When it was there, -1 unknown."""
    said: Said | None = None


@dataclass
class _Call:
    line: int
    parent: _Call | None
    news: list[_News]
    usage: Counts | None = None
    output: int = 0
    content_tokens: int = 0
    seen: set[int] = field(default_factory=set)
    """Hashes of the content blocks counted."""
    first_ns: int = -1
    last_ns: int = -1
    row: int = -1
    counts: Counts = _NOTHING
    words: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    called: list[Called] = field(default_factory=list)

    @property
    def exchange(self) -> Exchange:
        """What was said."""
        wrote = Said("assistant", "".join(self.words), "".join(self.reasoning), tuple(self.called))
        return Exchange(tuple(news.said for news in self.news if news.said is not None), wrote)

    def say(self, block: _Block | str) -> None:
        """Take over what the model wrote in a block."""
        if isinstance(block, str):
            self.words.append(block)
        elif block.type == "tool_use":
            self.called.append(Called(block.name, bytes(block.input).decode("utf-8", "replace"), block.id))
        elif block.thinking:
            self.reasoning.append(block.thinking)
        else:
            self.words.append(block.text or "")

    @property
    def arrival_ns(self) -> int:
        """When all that its prompt needs was there; its first record's time where that is unknown."""
        known = max((news.at_ns for news in self.news), default=-1)
        return known if known >= 0 else self.first_ns


@dataclass
class _Agent:
    """The main agent of a session, or a sub-agent."""

    calls: list[_Call] = field(default_factory=list)
    by_message: dict[str, _Call] = field(default_factory=dict)
    news: list[_News] = field(default_factory=list)
    """What came in since the last call."""

    @property
    def end_ns(self) -> int:
        return max(call.last_ns for call in self.calls)


@dataclass(frozen=True)
class _Node:
    """Where in the tree of records a uuid stands."""

    agent: str
    call: _Call | None
    news: tuple[_News, ...]
    """What came in since that call on this branch."""


@dataclass
class _Session:
    """One ``sessionId`` of one file."""

    id: str
    source: Source
    line: int
    agents: dict[str, _Agent] = field(default_factory=dict)
    nodes: dict[str, _Node] = field(default_factory=dict)
    tools: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Name and start of each tool call."""
    call_records: int = 0
    news_lines: set[int] = field(default_factory=set)

    def agent(self, name: str) -> _Agent:
        return self.agents.setdefault(name, _Agent())


_MAIN = "main"


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Record | str | int | float | bool | list[Any] | None)
        self._runner = msgspec.json.Decoder(_RunnerReport)
        self._sessions: list[_Session] = []
        self._messages: set[str] = set()

    def read(self, source: Source) -> None:
        sessions: dict[str, _Session] = {}
        for text in self._reading.texts(source):
            with self._reading.attempt():
                record = decode(self._decoder, text, source)
                if not isinstance(record, _Record):
                    self._reading.report.skip("not a record")
                elif record.type in ("assistant", "user"):
                    name = record.session_id or source.stem
                    if name not in sessions:
                        sessions[name] = _Session(name, source, text.line)
                    self._message(sessions[name], record, text, source)
                else:
                    self._reading.report.skip(f"record of type {record.type}" if record.type else "record without type")
        for session in sessions.values():
            for message in session.agents and {id for agent in session.agents.values() for id in agent.by_message}:
                if message in self._messages:
                    self._reading.report.flag(ELSEWHERE)
                self._messages.add(message)
        self._sessions += sessions.values()

    def _message(self, session: _Session, record: _Record, text: Text, source: Source) -> None:
        name, node = self._place(session, record)
        agent = session.agent(name)
        at_ns = from_datetime(record.timestamp) if record.timestamp is not None else -1
        if record.type == "user":
            if not isinstance(record.message, _Message):
                self._reading.report.skip("user record without content")
                return
            news = self._news(session, record, record.message, text.line, at_ns)
            agent.news += news
            session.news_lines.add(text.line)
            if record.uuid:
                session.nodes[record.uuid] = _Node(name, node.call, (*node.news, *news))
            return
        if not isinstance(record.message, _Message):
            raise InputError("is no message", file=source.name, line=text.line, field="message", remedy=REMEDY)
        if record.message.model == "<synthetic>":
            self._reading.report.skip(SYNTHETIC)
            call = node.call
        else:
            call = self._call(session, agent, node, record, record.message, text.line, at_ns)
            session.call_records += 1
        if record.uuid:
            session.nodes[record.uuid] = _Node(name, call, ())

    def _place(self, session: _Session, record: _Record) -> tuple[str, _Node]:
        """The agent a record belongs to, and what it follows."""
        above = session.nodes.get(record.parent_uuid or "")
        if not record.is_sidechain:
            name = _MAIN
        elif record.agent_id:
            name = record.agent_id
        elif above is not None and above.agent != _MAIN:
            name = above.agent
        else:
            name = f"sidechain {record.uuid or len(session.agents)}"
        if above is None or above.agent != name:
            agent = session.agent(name)
            above = _Node(name, agent.calls[-1] if agent.calls else None, tuple(agent.news))
        return name, above

    def _news(self, session: _Session, record: _Record, message: _Message, line: int, at_ns: int) -> list[_News]:
        """A user record's parts; a record without words still brings its time."""
        count = self._reading.count
        blocks = message.content if isinstance(message.content, list) else [message.content or ""]
        news = []
        for block in blocks:
            if isinstance(block, str) or block.type != "tool_result":
                words = block if isinstance(block, str) else block.text or ""
                news.append(_News(line, Part("user", None, count(words)), at_ns, self._kept(Said("user", words))))
                continue
            self._reading.report.tool_results += 1
            name, begun_ns = session.tools.get(block.tool_use_id or "", (None, -1))
            done_ns, ran_ns = at_ns, self._ran_ns(record)
            if begun_ns >= 0 and ran_ns is not None:
                done_ns = min(begun_ns + ran_ns, at_ns) if at_ns >= 0 else begun_ns + ran_ns
            words = _words(block.content)
            said = self._kept(Said("tool", words, tool=name, call_id=block.tool_use_id, failed=block.is_error))
            news.append(_News(line, Part("tool", name, count(words)), done_ns, said))
        return news or [_News(line, Part("user", None, 0), at_ns)]

    def _kept(self, said: Said) -> Said | None:
        return said if self._reading.keep_text else None

    def _ran_ns(self, record: _Record) -> int | None:
        """How long a tool's runner says it took."""
        if not bytes(record.tool_use_result).startswith(b"{"):
            return None
        try:
            reported = self._runner.decode(record.tool_use_result).duration_ms
        except msgspec.ValidationError:
            return None
        return round(reported * NS_PER_MS) if reported is not None else None

    def _call(
        self, session: _Session, agent: _Agent, node: _Node, record: _Record, message: _Message, line: int, at_ns: int
    ) -> _Call:
        id = message.id or record.uuid or f"line {line}"
        call = agent.by_message.get(id)
        if call is None:
            forked = node.call is not (agent.calls[-1] if agent.calls else None)
            call = _Call(line, node.call, list(node.news) if forked else agent.news, first_ns=at_ns)
            agent.news = []
            agent.calls.append(call)
            agent.by_message[id] = call
        if at_ns >= 0:
            call.first_ns = min(call.first_ns, at_ns) if call.first_ns >= 0 else at_ns
            call.last_ns = max(call.last_ns, at_ns)
        if message.usage is not None and (counts := message.usage.counts()) is not None:
            call.usage = counts
            call.output = max(call.output, counts.output)
        for block in message.content if isinstance(message.content, list) else [message.content or ""]:
            words = block if isinstance(block, str) else _said(block)
            if hash(words) not in call.seen:
                call.seen.add(hash(words))
                call.content_tokens += self._reading.count(words)
                if self._reading.keep_text:
                    call.say(block)
            if isinstance(block, _Block) and block.type == "tool_use" and block.id:
                session.tools.setdefault(block.id, (block.name or "", at_ns))
        return call

    def finish(self) -> None:
        hosts: dict[str, list[_Session]] = {}
        for session in self._sessions:
            if _MAIN in session.agents and session.agents[_MAIN].calls:
                hosts.setdefault(session.id, []).append(session)
        guests: dict[int, list[_Session]] = {}
        alone = []
        for session in self._sessions:
            host = hosts.get(session.id, [])
            if session in host or len(host) != 1:
                alone.append(session)
            else:
                guests.setdefault(id(host[0]), []).append(session)
        first: dict[str, int] = {}
        for session in alone:
            starts = [agent.calls[0].arrival_ns for agent in session.agents.values() if agent.calls]
            known = [start for start in starts if start >= 0]
            if known:
                first[session.source.name] = min(first.get(session.source.name, known[0]), *known)
        for session in alone:
            _Telling(self._reading, session, guests.get(id(session), []), first.get(session.source.name, 0)).add()


class _Telling:
    """Adds one session, with sub-agents from files of their own, to the batch."""

    def __init__(self, reading: Reading, session: _Session, guests: list[_Session], first_ns: int) -> None:
        self._reading = reading
        self._session = session
        self._first_ns = first_ns
        told = [session, *guests]
        agents = {f"{place} {name}": agent for place, part in enumerate(told) for name, agent in part.agents.items()}
        main = agents.pop(f"0 {_MAIN}", _Agent())
        self._main = main
        self._subagents = [agent for agent in agents.values() if agent.calls]
        used = {
            (place, news.line)
            for place, part in enumerate(told)
            for agent in part.agents.values()
            for call in agent.calls
            for news in call.news
        }
        self._left = sum(len(part.news_lines) for part in told) - len(used)
        self._records = sum(part.call_records for part in told) + len(used)

    def add(self) -> None:
        with self._reading.attempt(self._records + self._left):
            report = self._reading.report
            if self._left:
                report.skip(AFTER_LAST_CALL, self._left)
            if not self._main.calls and not self._subagents:
                return
            self._reading.trajectory(self._session.id, self._session.source, self._session.line, self._records)
            waiting = sorted(self._subagents, key=lambda agent: agent.calls[0].arrival_ns)
            running: list[_Agent] = []
            spawner: _Call | None = None
            for call in self._main.calls:
                arrival_ns = call.arrival_ns
                while waiting and spawner is not None and waiting[0].calls[0].arrival_ns <= arrival_ns:
                    running.append(self._subagent(waiting.pop(0), spawner))
                joined = [agent for agent in running if 0 <= agent.end_ns <= arrival_ns]
                running = [agent for agent in running if agent not in joined]
                self._turn(call, call.parent, joined)
                spawner = call
            for agent in waiting:
                self._subagent(agent, spawner)

    def _subagent(self, agent: _Agent, spawner: _Call | None) -> _Agent:
        for call in agent.calls:
            self._turn(call, call.parent or spawner, [], extends=call.parent is not None)
        return agent

    def _turn(self, call: _Call, before: _Call | None, joined: list[_Agent], *, extends: bool = True) -> None:
        report = self._reading.report
        parent = before if extends else None
        parts = [news.part for news in call.news]
        kept, estimated = self._count(call, parent)
        if call.counts.output == 0:
            report.flag(NO_OUTPUT)
        pause_ns = arrival_ns = 0
        if before is None:
            arrival_ns = max(0, call.arrival_ns - self._first_ns) if call.arrival_ns >= 0 else 0
        elif call.news and call.arrival_ns >= 0 and before.last_ns >= 0:
            pause_ns = max(0, call.arrival_ns - max([before.last_ns, *(agent.end_ns for agent in joined)]))
            if call.first_ns < before.first_ns:
                report.flag(BACKWARDS)
        e2e_ns = call.last_ns - call.arrival_ns if call.news and call.last_ns >= call.arrival_ns >= 0 else -1
        last = max((news for news in call.news if news.part.tool), key=lambda news: news.at_ns, default=None)
        if parent is not None and call.counts.prompt < parent.counts.prompt:
            parts = []
        call.row = self._reading.builder.turn(
            parent=parent.row if parent else -1,
            after=before.row if before else -1,
            kept_tokens=kept,
            prompt_tokens=call.counts.prompt,
            output_tokens=call.counts.output,
            pause_ns=pause_ns,
            arrival_ns=arrival_ns,
            waits_for=[agent.calls[-1].row for agent in joined],
            tool=last.part.tool if last else None,
            segments=scaled(parts, call.counts.prompt - kept) if parent else (),
            cached_tokens=call.counts.cached,
            e2e_ns=e2e_ns,
            estimated_tokens=estimated,
            said=call.exchange if self._reading.keep_text else None,
        )

    def _count(self, call: _Call, parent: _Call | None) -> tuple[int, int]:
        """Settle a call's counts; returns its kept tokens and how many of its tokens are estimated."""
        report = self._reading.report
        before = parent.counts if parent else _NOTHING
        if call.usage is None:
            report.flag(NO_USAGE)
            new = TEMPLATE_TOKENS + sum(news.part.tokens + TEMPLATE_TOKENS for news in call.news)
            whole = before.prompt + before.output
            call.counts = Counts(whole + new, call.content_tokens, -1)
            return whole, new + call.content_tokens
        estimated, output = 0, call.output
        if call.usage.output < 0 and not output:
            report.flag(NO_OUTPUT_COUNT)
            estimated = output = call.content_tokens
        elif output < call.content_tokens * _STALE_SHARE and call.content_tokens - output >= _STALE_TOKENS:
            report.flag(STALE_OUTPUT)
            estimated = output = call.content_tokens
        call.counts = Counts(call.usage.prompt, output, call.usage.cached)
        if parent is None:
            return 0, estimated
        kept, remark = by_lengths(call.counts.prompt, call.counts.cached, before.prompt, before.output)
        if remark:
            report.flag(remark)
        return kept, estimated


def _words(content: str | list[_Block | str] | None) -> str:
    if isinstance(content, list):
        return "".join(block if isinstance(block, str) else block.text or "" for block in content)
    return content or ""


def _said(block: _Block) -> str:
    """What the model wrote in a block."""
    if block.type == "tool_use":
        return (block.name or "") + bytes(block.input).decode("utf-8", "replace")
    return block.thinking or block.text or ""


FORMAT = Format(
    name="claude-code",
    looks_for="lines with 'sessionId', 'type' and 'message' (Claude Code sessions)",
    matches=lambda paths: {"sessionId", "type"} <= paths or {"type", "summary", "leafUuid"} <= paths,
    reader=_Reader,
)
