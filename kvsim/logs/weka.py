"""Weka's kv-cache-tester traces: agent sessions with prompts as hashes of 64-token blocks, or derived from them.

A session's ``requests`` hold the main agent's requests and, among them, sub-agents with requests of their own. In
files as published a request has ``hash_ids``; the derived file has instead how many blocks there were (``n_blocks``)
and how many leading ones equal the previous request's (``lcp_prev_blocks``), and wraps a sub-agent's facts in
``agent``.

Times. A request's ``t`` counts from its agent's start, on a grid of one second; ``think_time`` (where present) is the
exact pause before it. A sub-agent's ``t`` is when its result came back: in the 59 completed sub-agents of the 710
published traces ``t - duration_ms`` lies 0.1 to 1.1 s after the end of a request of the main agent, and the
sub-agent's last request ends 1 to 7 s before its duration is over. Those launched asynchronously (4) have no duration:
there ``t``, 0.1 to 0.4 s after such an end, is the start, and nothing is known to wait for the result. Hence:

- a sub-agent's first turn comes ``after`` the last main turn that began before it, its pause the time between;
- the first main turn that begins after a sub-agent's ``t`` waits for its last turn; its pause is what then remains.

What a prompt reads anew is told by ``input_types``; of a session's first prompt ``tool_tokens`` and ``system_tokens``
are the definitions of tools and the system prompt. Tools have no names.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kvsim._ingest import PrefixIndex
from kvsim.errors import InputError
from kvsim.logs.kept import by_blocks
from kvsim.logs.reading import REMEDY, Format, Reading, decode
from kvsim.logs.source import Source
from kvsim.logs.times import BACKWARDS, NS_PER_MS, from_seconds

Count = Annotated[int, Meta(ge=0, le=1 << 30)]
Hash = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e8)]
NO_OUTPUT = "output of 0 tokens"

_INPUTS = {"tool_result": "tool", "text": "user"}


class _Agent(msgspec.Struct):
    t: Seconds
    agent_id: str = ""
    duration_ms: Annotated[float, Meta(ge=0, le=1e11)] | None = None


class _Request(msgspec.Struct):
    """A request, or a sub-agent (``type`` "subagent"): which fields must be there is checked by hand."""

    type: str
    t: Seconds | None = None
    prompt: Count | None = msgspec.field(name="in", default=None)
    output: Count | None = msgspec.field(name="out", default=None)
    hash_ids: list[Hash] | None = None
    n_blocks: Count | None = None
    lcp_prev_blocks: Count = 0
    api_time: Seconds | None = None
    ttft: Seconds | None = None
    think_time: Seconds | None = None
    input_types: list[str] = []
    agent_id: str = ""
    duration_ms: Annotated[float, Meta(ge=0, le=1e11)] | None = None
    agent: _Agent | None = None
    requests: list[_Request] | None = None


class _Trace(msgspec.Struct):
    id: str
    requests: list[_Request]
    block_size: Annotated[int, Meta(ge=1, le=1 << 20)] = 64
    tool_tokens: Count = 0
    system_tokens: Count = 0


class _Turn(msgspec.Struct, frozen=True):
    """A turn already added, as what follows needs it."""

    row: int
    prompt: int
    output: int
    start_ns: int
    end_ns: int


class _Spawned(msgspec.Struct, frozen=True):
    """A sub-agent of which the last turn is added."""

    last_row: int
    end_ns: int


class _Session:
    """Adds one trace to the batch."""

    def __init__(self, reading: Reading, trace: _Trace, source: Source, line: int) -> None:
        self._reading = reading
        self._trace = trace
        self._source = source
        self._line = line
        self._index = PrefixIndex()
        self._turns: dict[int, _Turn] = {}

    def add(self) -> None:
        """Add the main agent's turns, each sub-agent's after the main turn that spawned it."""
        requests = [(f"requests[{i}]", request) for i, request in enumerate(self._trace.requests)]
        main = [(where, request) for where, request in requests if request.type != "subagent"]
        waiting = [
            (where, *self._span(where, request), request) for where, request in requests if request.type == "subagent"
        ]
        waiting.sort(key=lambda spawned: spawned[1])
        running: list[_Spawned] = []
        previous: _Turn | None = None
        for where, request in main:
            start_ns = self._time(where, "t", request.t)
            while waiting and waiting[0][1] < start_ns:
                running += self._subagent(*waiting.pop(0), spawner=previous)
            joined = [spawned for spawned in running if spawned.end_ns <= start_ns]
            running = [spawned for spawned in running if spawned.end_ns > start_ns]
            previous = self._turn(where, request, previous, start_ns, joined=joined)
        for spawned in waiting:
            self._subagent(*spawned, spawner=previous)

    def _span(self, where: str, request: _Request) -> tuple[int, int]:
        """When a sub-agent started and ended; the end is far away where nothing waits for it."""
        agent = request.agent or request
        t = self._time(where, "t", agent.t)
        if agent.duration_ms is None:
            return t, 1 << 62
        return max(0, t - round(agent.duration_ms * NS_PER_MS)), t

    def _subagent(
        self, where: str, start_ns: int, end_ns: int, request: _Request, *, spawner: _Turn | None
    ) -> list[_Spawned]:
        previous: _Turn | None = None
        for i, inner in enumerate(request.requests or ()):
            place = f"{where}.requests[{i}]"
            if inner.type == "subagent":
                raise self._error(place, "type", "a sub-agent inside a sub-agent is not known in this format")
            at = start_ns + self._time(place, "t", inner.t)
            previous = self._turn(place, inner, previous, at, spawner=spawner)
        return [_Spawned(previous.row, end_ns)] if previous else []

    def _turn(
        self,
        where: str,
        request: _Request,
        previous: _Turn | None,
        start_ns: int,
        *,
        joined: list[_Spawned] = [],  # noqa: B006 - only read
        spawner: _Turn | None = None,
    ) -> _Turn:
        prompt = self._count(where, "in", request.prompt)
        output = self._count(where, "out", request.output)
        parent, kept = self._context(where, request, prompt, previous)
        before = previous or spawner
        pause_ns = arrival_ns = 0
        if before is None:
            arrival_ns = start_ns
        elif previous is not None and request.think_time is not None and not joined:
            pause_ns = from_seconds(request.think_time)
        else:
            pause_ns = max(0, start_ns - max([before.end_ns, *(spawned.end_ns for spawned in joined)]))
        if previous is not None and start_ns < previous.start_ns:
            self._reading.report.flag(BACKWARDS)
        if output == 0:
            self._reading.report.flag(NO_OUTPUT)
        e2e_ns = -1 if request.api_time is None else from_seconds(request.api_time)
        row = self._reading.builder.turn(
            parent=parent.row if parent else -1,
            after=before.row if before else -1,
            kept_tokens=kept,
            prompt_tokens=prompt,
            output_tokens=output,
            pause_ns=pause_ns,
            arrival_ns=arrival_ns,
            waits_for=[spawned.last_row for spawned in joined],
            segments=self._segments(request, prompt, parent, kept, main=before is None),
            ttft_ns=-1 if request.ttft is None else from_seconds(request.ttft),
            e2e_ns=e2e_ns,
        )
        turn = _Turn(row, prompt, output, start_ns, start_ns + max(e2e_ns, 0))
        self._turns[row] = turn
        if request.hash_ids is not None:
            self._index.add(request.hash_ids, row)
        return turn

    def _context(self, where: str, request: _Request, prompt: int, previous: _Turn | None) -> tuple[_Turn | None, int]:
        """The turn whose context the prompt extends, and how much of it is kept.

        With hashes at hand, the request of the session, sub-agents included, that shares most (the latest of several);
        without, the agent's previous request.
        """
        block = self._trace.block_size
        if request.hash_ids is not None:
            row, shared = self._index.longest(request.hash_ids)
            parent = self._turns[row] if shared else previous
        elif request.n_blocks is not None:
            parent, shared = previous, request.lcp_prev_blocks
        else:
            raise self._error(where, "hash_ids", "is missing, and so is 'n_blocks'")
        if parent is None:
            return None, 0
        return parent, by_blocks(shared, block, prompt, parent.prompt, parent.output)

    def _segments(
        self, request: _Request, prompt: int, parent: _Turn | None, kept: int, *, main: bool
    ) -> list[tuple[str, str | None, int]]:
        """What the new part is made of, where the trace says it: the head of a session, and what came in behind."""
        head = self._trace.tool_tokens + self._trace.system_tokens
        if parent is None:
            if not main or not 0 < head <= prompt:
                return []
            parts = [("tools", self._trace.tool_tokens), ("system", self._trace.system_tokens), ("user", prompt - head)]
            return [(kind, None, tokens) for kind, tokens in parts if tokens]
        kind = _INPUTS.get(request.input_types[0]) if len(request.input_types) == 1 else None
        if kind is None or kept < parent.prompt + parent.output or kept == prompt:
            return []  # unknown, or a context that was rewritten
        return [(kind, None, prompt - kept)]

    def _count(self, where: str, name: str, value: int | None) -> int:
        if value is None:
            raise self._error(where, name, "is missing")
        return value

    def _time(self, where: str, name: str, value: float | None) -> int:
        if value is None:
            raise self._error(where, name, "is missing")
        return from_seconds(value)

    def _error(self, where: str, name: str, problem: str) -> InputError:
        return InputError(problem, file=self._source.name, line=self._line, field=f"{where}.{name}", remedy=REMEDY)


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Trace)

    def read(self, source: Source) -> None:
        for text in self._reading.texts(source):
            with self._reading.attempt() as attempt:
                trace = decode(self._decoder, text, source)
                records = sum(
                    len(request.requests or ()) if request.type == "subagent" else 1 for request in trace.requests
                )
                if not records:
                    self._reading.report.skip("session without requests")
                    continue
                attempt.records = records
                self._reading.trajectory(trace.id, source, text.line, records)
                _Session(self._reading, trace, source, text.line).add()

    def finish(self) -> None:
        pass


FORMAT = Format(
    name="weka",
    looks_for="'requests' with 't', 'in', 'out' and 'hash_ids' or 'n_blocks' (kv-cache-tester)",
    matches=lambda paths: (
        {"requests[].t", "requests[].in"} <= paths and bool({"requests[].hash_ids", "requests[].n_blocks"} & paths)
    ),
    reader=_Reader,
)
