"""Lists of chat messages to turns: every assistant message is a call whose prompt is all that precedes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from kvsim.errors import InputError
from kvsim.logs.chat import Message, as_text
from kvsim.logs.kept import REWRITTEN, by_lengths
from kvsim.logs.reading import REMEDY, Reading
from kvsim.logs.report import ReadReport
from kvsim.logs.said import Exchange, Said, said_of
from kvsim.logs.segments import Part, scaled
from kvsim.logs.source import Source
from kvsim.logs.usage import Counts, Usage
from kvsim.tokens import TokenCounter, token_counter
from kvsim.trajectory import Batch

#: What a chat template adds to each message (role, separators), in tokens: ChatML's ``<|im_start|>role\n`` and
#: ``<|im_end|>\n`` are 4 to 5; logged growth between turns of real sessions lies 4 to 6 above the text alone.
TEMPLATE_TOKENS = 4

AFTER_LAST_CALL = "message after the last call"
NO_OUTPUT = "output of 0 tokens"

#: A remark for ``ReadReport.flagged``.
NO_OUTPUT_COUNT = "usage without an output count: counted from the text"

_KINDS = {"system": "system", "developer": "system", "tool": "tool", "function": "tool", "assistant": "own"}


class Fact(NamedTuple):
    """What is left of a message once its text is let go."""

    role: str
    tokens: int
    key: int
    """Equal for messages of one role, text and calls; reasoning, which may not come back, is no part of it."""
    tool: str | None
    """The tool whose response this is."""
    results: int = 0
    """How many tool results the message is or holds."""
    remarks: frozenset[str] = frozenset()
    """What of the message was not counted."""
    said: tuple[Said, ...] = ()
    """The message itself, where text is kept."""

    @property
    def part(self) -> Part:
        """The message as part of a prompt, template included."""
        kind = "tool" if self.results else _KINDS.get(self.role, "user")
        return Part(kind, self.tool, self.tokens + TEMPLATE_TOKENS)


def flag_uncounted(report: ReadReport, facts: Iterable[Fact]) -> None:
    """Flag a turn once for each thing that its messages hold and that was not counted."""
    for remark in sorted({remark for fact in facts for remark in fact.remarks}):
        report.flag(remark)


class Facts:
    """Turns messages into facts, counting each distinct message once."""

    def __init__(self, count: TokenCounter, *, keep_text: bool = False) -> None:
        self._count = count
        self._keep_text = keep_text
        self._said: dict[int, tuple[Said, ...]] = {}
        self._tokens: dict[int, int] = {}

    def of(self, messages: Sequence[Message]) -> list[Fact]:
        """The facts of a conversation's messages, tool responses with the names of their tools."""
        names: dict[str, str] = {}
        facts = []
        for message in messages:
            for call in message.calls:
                if call.id and call.function and call.function.name:
                    names[call.id] = call.function.name
            tool = None
            if message.role in ("tool", "function"):
                tool = message.name or names.get(message.tool_call_id or "")
            for part in message.parts:
                if part.type == "tool_use" and part.id and part.name:
                    names[part.id] = part.name
                elif part.type == "tool_result":
                    tool = names.get(part.tool_use_id or "", tool)
            fact = self.one(message, tool)
            if self._keep_text:  # requests repeat the messages of earlier ones: each is kept once
                ids = (*(call.id for call in message.calls), *(part.id or part.tool_use_id for part in message.parts))
                which = hash((fact.key, message.reasoning_content, message.tool_call_id, ids))
                fact = fact._replace(said=self._said.setdefault(which, said_of(message, names)))
            facts.append(fact)
        return facts

    def one(self, message: Message, tool: str | None = None) -> Fact:
        """The fact of one message, its text let go."""
        parts = message.parts
        reasoning = [message.reasoning_content or "", *(part.thinking for part in parts if part.thinking)]
        words = [message.text]
        for call in message.calls:
            if call.function is not None:
                words += [call.function.name or "", as_text(call.function.arguments)]
        counted = hash((*reasoning, None, *words))
        if counted not in self._tokens:
            self._tokens[counted] = sum(self._count(text) for text in (*reasoning, *words) if text)
        results = sum(part.type == "tool_result" for part in parts) or int(message.role in ("tool", "function"))
        remarks = frozenset(remark for part in parts for remark in part.remarks())
        return Fact(message.role, self._tokens[counted], hash((message.role, *words)), tool, results, remarks)

    def raw_said(self, data: bytes) -> tuple[Said, ...]:
        """A JSON text (tool definitions) as it was said; nothing where text is not kept or there is none."""
        return (Said("tools", data.decode("utf-8", "replace")),) if self._keep_text and data else ()

    def raw(self, data: bytes) -> tuple[int, int]:
        """Tokens and key of a JSON text (tool definitions)."""
        key = hash(data)
        if key not in self._tokens:
            self._tokens[key] = self._count(data.decode("utf-8", "replace"))
        return self._tokens[key], key


def add_conversation(
    reading: Reading,
    facts: Sequence[Fact],
    *,
    id: str,
    usages: Sequence[Usage | None] | None = None,
    tools_tokens: int = 0,
    tools_said: tuple[Said, ...] = (),
    pauses_ns: Sequence[int] = (),
    source: Source | None = None,
    line: int | None = None,
) -> None:
    """Add a conversation as a trajectory; its messages are the records.

    ``usages`` and ``pauses_ns`` (before it), where given: one for each assistant message. Logged counts win; what has
    none is counted from the text, on top of the logged length before it.
    """
    report = reading.report
    report.tool_results += sum(fact.results for fact in facts)
    calls = [i for i, fact in enumerate(facts) if fact.role == "assistant"]
    if usages is not None and len(usages) != len(calls):
        raise InputError(
            f"{len(usages)} usage objects for {len(calls)} assistant messages",
            file=source.name if source else None,
            line=line,
            field="usage",
            remedy="Log one usage object a model call, in order",
        )
    if not calls:
        report.skip("message of a conversation without a call", len(facts))
        return
    reading.trajectory(id, source, line, calls[-1] + 1)
    if rest := len(facts) - calls[-1] - 1:
        report.skip(AFTER_LAST_CALL, rest)
    parent, begin = -1, 0
    context = Counts(0, 0, -1)
    for number, at in enumerate(calls):
        news = [fact.part for fact in facts[begin:at]]
        if number == 0 and tools_tokens:
            news.insert(0, Part("tools", None, tools_tokens))
        usage = usages[number] if usages is not None else None
        logged = usage.counts() if usage is not None else None
        now, kept, estimated = _counted(logged, news, facts[at].tokens, context)
        if logged is not None and logged.output < 0:
            report.flag(NO_OUTPUT_COUNT)
        if now.prompt < context.prompt:
            news = [fact.part for fact in facts[:at]]
        elif kept < context.prompt + context.output and number:
            news.insert(0, facts[calls[number - 1]].part)
            report.flag(REWRITTEN)
        if not now.output:
            report.flag(NO_OUTPUT)
        flag_uncounted(report, facts[begin : at + 1])
        waited = [fact.tool for fact in facts[begin:at] if fact.tool]
        parent = reading.builder.turn(
            parent=parent,
            kept_tokens=kept,
            prompt_tokens=now.prompt,
            output_tokens=now.output,
            pause_ns=pauses_ns[number] if number < len(pauses_ns) else 0,
            tool=waited[-1] if waited else None,
            segments=scaled(news, now.prompt - kept),
            cached_tokens=now.cached,
            estimated_tokens=estimated,
            said=exchange(facts[begin:at], facts[at], before=() if number else tools_said),
        )
        context, begin = now, at + 1


def exchange(read: Iterable[Fact], answer: Fact | None, *, before: tuple[Said, ...] = ()) -> Exchange | None:
    """What was said in a turn, ``before`` first; None where text was not kept."""
    said = (*before, *(part for fact in read for part in fact.said))
    wrote = answer.said[-1] if answer is not None and answer.said else None
    return Exchange(said, wrote) if said or wrote is not None else None


def exchanges(facts: Sequence[Fact]) -> list[Exchange]:
    """What was said in the turns of a conversation, one an assistant message; empty where text was not kept."""
    calls = [at for at, fact in enumerate(facts) if fact.role == "assistant"]
    found = [
        exchange(facts[begin:at], facts[at]) for begin, at in zip([0, *(at + 1 for at in calls)], calls, strict=False)
    ]
    return [said for said in found if said is not None]


def _counted(logged: Counts | None, news: Sequence[Part], output: int, context: Counts) -> tuple[Counts, int, int]:
    """A call's counts, its kept tokens and how many of its tokens are estimated."""
    length = context.prompt + context.output
    if logged is None:
        new = sum(part.tokens for part in news) + TEMPLATE_TOKENS  # the head of the answer
        return Counts(length + new, output, -1), length, new + output
    kept = by_lengths(logged.prompt, logged.cached, context.prompt, context.output)[0] if length else 0
    if logged.output < 0:
        return logged._replace(output=output), kept, output
    return logged, kept, 0


def from_messages(
    conversations: Iterable[Sequence[Mapping[str, Any]]],
    *,
    usage: Iterable[Sequence[Mapping[str, Any] | None] | None] | None = None,
    ids: Iterable[str] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Batch:
    """A batch from lists of OpenAI-style chat messages, one trajectory a list.

    ``usage``: for each conversation None or one usage object (or None) an assistant message. ``tools``: definitions
    that every prompt begins with. Counts without usage come from ``tokenizer`` (see :func:`kvsim.tokens.token_counter`)
    and are estimated. Pauses are not in messages: they are 0. Raises :class:`InputError` naming the conversation.
    """
    reading = Reading(lenient=False, count=token_counter(tokenizer))
    facts = Facts(reading.count)
    tools_tokens = facts.raw(msgspec.json.encode(tools))[0] if tools else 0
    names, usages = iter(ids or ()), iter(usage or ())
    for number, messages in enumerate(conversations):
        try:
            typed = msgspec.convert(messages, list[Message])
            given = msgspec.convert(next(usages, None), list[Usage | None] | None)
        except msgspec.ValidationError as error:
            raise InputError(f"conversation {number}: {error}", field="messages", remedy=REMEDY) from None
        id = next(names, str(number))
        add_conversation(reading, facts.of(typed), id=id, usages=given, tools_tokens=tools_tokens)
    return reading.build()
