"""Logged requests with their whole message lists, joined to trajectories by the prefixes they share.

A log of requests says each time everything the model was sent. A request belongs to the trajectory of the earlier one
that it extends: whose messages, and mostly whose answer too, it begins with. Where a log names its session, that
decides instead, and a request that shares less than a whole earlier one is a compacted context. One that names no
session and extends nothing starts a trajectory of its own (a second sample of the same prompt does so too).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kvsim._ingest import PrefixIndex
from kvsim.logs.kept import REWRITTEN, by_lengths
from kvsim.logs.messages import NO_OUTPUT, NO_OUTPUT_COUNT, TEMPLATE_TOKENS, Fact, exchange, flag_uncounted
from kvsim.logs.reading import Reading
from kvsim.logs.said import Said
from kvsim.logs.segments import Part, scaled
from kvsim.logs.source import Source
from kvsim.logs.times import BACKWARDS
from kvsim.logs.usage import Counts

COMPACTED = "context compacted: only the common first messages are kept"


@dataclass
class Request:
    """One logged call, its texts already let go."""

    id: str
    session: str | None
    source: Source
    line: int
    tools: tuple[int, int]
    """Tokens and key of the tool definitions; (0, 0) for none."""
    facts: Sequence[Fact]
    answer: Fact | None
    counts: Counts | None
    start_ns: int = -1
    end_ns: int = -1
    tools_said: tuple[Said, ...] = ()
    keys: list[int] = field(init=False)
    """What the prompt begins with: tools, then messages."""

    def __post_init__(self) -> None:
        self.keys = [self.tools[1], *(fact.key for fact in self.facts)]

    def text_tokens(self, begin: int = 0, end: int | None = None) -> int:
        """Tokens of ``keys[begin:end]`` counted from their text."""
        return sum(part.tokens for part in self.parts(begin, end))

    def parts(self, begin: int = 0, end: int | None = None) -> list[Part]:
        """What ``keys[begin:end]`` are made of."""
        tools = Part("tools", None, self.tools[0])
        return [tools, *(fact.part for fact in self.facts)][begin:end]


@dataclass(frozen=True)
class _Placed:
    """A request that has become a turn."""

    row: int
    trajectory: int
    request: Request
    counts: Counts


@dataclass(frozen=True)
class _Context:
    """What a request extends: the turn, how much of it is kept, and which of the request's keys are new."""

    parent: _Placed | None
    kept: int = 0
    new_from: int = 0
    own: int = 0
    """Tokens of the parent's answer that are read again."""


class Requests:
    """Collects requests and joins them."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._requests: list[Request] = []
        self._indexes: dict[str | None, PrefixIndex] = {}
        self._ends: dict[int, _Placed] = {}
        """Whole requests, with and without their answers, by a hash of all they hold."""
        self._placed: list[_Placed] = []
        self._last: dict[str, _Placed] = {}

    def collect(self, request: Request) -> None:
        """Take a request; the order of times, not that of the files, is what counts."""
        self._requests.append(request)

    def finish(self) -> None:
        """Add all as turns."""
        ordered = sorted(self._requests, key=lambda request: request.start_ns)
        first_ns = min((request.start_ns for request in ordered if request.start_ns >= 0), default=0)
        for request in ordered:
            with self._reading.attempt():
                self._place(request, first_ns)

    def _place(self, request: Request, first_ns: int) -> None:
        index = self._indexes.setdefault(request.session, PrefixIndex())
        owner, shared = index.longest(request.keys)
        whole, match = self._whole(request)
        if whole < shared:
            match = self._placed[owner]
        if request.session is None and not 0 < whole < len(request.keys):
            match = None  # it only begins alike, or is another sample of the same prompt
        before = self._last.get(request.session) if request.session is not None else None
        context, counts, estimated = self._context(request, match, shared)
        parent = context.parent
        extends = parent is not None and context.new_from > len(parent.request.facts)
        after = parent if extends or before is None else before
        report, builder = self._reading.report, self._reading.builder
        pause_ns = arrival_ns = 0
        if after is None:
            trajectory = self._reading.trajectory(request.session or request.id, request.source, request.line, 1)
            arrival_ns = max(0, request.start_ns - first_ns) if request.start_ns >= 0 else 0
        else:
            trajectory = after.trajectory
            if request.start_ns >= 0 and after.request.end_ns >= 0:
                pause_ns = request.start_ns - after.request.end_ns
                if pause_ns < 0:
                    report.flag(BACKWARDS)
        if not counts.output:
            report.flag(NO_OUTPUT)
        parts = request.parts(context.new_from)
        if context.own:
            parts.insert(0, Part("own", None, context.own))
        news = request.facts[max(0, context.new_from - 1) :]
        report.tool_results += sum(fact.results for fact in news)
        flag_uncounted(report, [*news, request.answer] if request.answer else news)
        tools = [fact.tool for fact in news if fact.tool]
        row = builder.turn(
            trajectory=trajectory,
            parent=parent.row if parent else -1,
            after=after.row if after else -1,
            kept_tokens=context.kept,
            prompt_tokens=counts.prompt,
            output_tokens=counts.output,
            pause_ns=max(0, pause_ns),
            arrival_ns=arrival_ns,
            tool=tools[-1] if tools else None,
            segments=scaled(parts, counts.prompt - context.kept),
            cached_tokens=counts.cached,
            e2e_ns=request.end_ns - request.start_ns if request.end_ns >= request.start_ns >= 0 else -1,
            estimated_tokens=estimated,
            said=exchange(news, request.answer, before=request.tools_said if context.new_from == 0 else ()),
        )
        if after is not None:
            self._reading.grow(trajectory)
        placed = _Placed(row, trajectory, request, counts)
        said = [*request.keys, request.answer.key] if request.answer else request.keys
        index.add(said, len(self._placed))
        self._placed.append(placed)
        for length, end in enumerate(_hashes(request.session, said), start=1):
            if length >= len(request.keys):
                self._ends[end] = placed
        if request.session is not None:
            self._last[request.session] = placed

    def _whole(self, request: Request) -> tuple[int, _Placed | None]:
        """How many keys of the longest earlier request (or it and its answer) this one begins with, and which."""
        found: tuple[int, _Placed | None] = 0, None
        for length, end in enumerate(_hashes(request.session, request.keys), start=1):
            if end in self._ends:
                found = length, self._ends[end]
        return found

    def _context(self, request: Request, match: _Placed | None, shared: int) -> tuple[_Context, Counts, int]:
        """What the request extends, its counts, and how many of its tokens are estimated."""
        answer = request.answer.tokens if request.answer else 0
        if match is None or not shared:
            return self._counted(request, _Context(None), request.text_tokens(), answer)
        sent, whole = len(match.request.keys), match.counts.prompt + match.counts.output
        if shared > sent:
            context = _Context(match, whole, shared)
        elif shared == sent:
            returned = match.request.answer is not None and len(request.keys) > sent
            own = request.facts[sent - 1].tokens if returned and request.facts[sent - 1].role == "assistant" else 0
            cached = request.counts.cached if request.counts else -1
            context = _Context(match, max(match.counts.prompt, min(cached, whole)), sent + (own > 0), own)
            if own:
                self._reading.report.flag(REWRITTEN)
        else:
            of_text = max(1, match.request.text_tokens())
            kept = match.counts.prompt * request.text_tokens(0, shared) // of_text
            context = _Context(match, kept, shared)
            self._reading.report.flag(COMPACTED)
        new = request.text_tokens(context.new_from) + context.own
        return self._counted(request, context, new, answer)

    def _counted(self, request: Request, context: _Context, new: int, answer: int) -> tuple[_Context, Counts, int]:
        if request.counts is None:
            new += TEMPLATE_TOKENS
            return context, Counts(context.kept + new, answer, -1), new + answer
        counts, parent, estimated = request.counts, context.parent, 0
        if counts.output < 0:
            self._reading.report.flag(NO_OUTPUT_COUNT)
            counts, estimated = counts._replace(output=answer), answer
        if parent is None or context.kept <= counts.prompt:
            return context, counts, estimated
        kept, remark = by_lengths(counts.prompt, counts.cached, parent.counts.prompt, parent.counts.output)
        self._reading.report.flag(remark or REWRITTEN)
        return _Context(parent, min(kept, context.kept), context.new_from, context.own), counts, estimated


def _hashes(session: str | None, keys: Sequence[int]) -> Iterator[int]:
    """A hash of each beginning of a list of keys."""
    chained = hash(session)
    for key in keys:
        chained = hash((chained, key))
        yield chained
