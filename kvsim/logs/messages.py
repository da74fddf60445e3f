"""Lists of chat messages to turns: every assistant message is a call whose prompt is all that precedes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from kvsim.errors import InputError
from kvsim.logs.kept import REWRITTEN, by_lengths
from kvsim.logs.reading import REMEDY, Reading
from kvsim.logs.report import ReadReport
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

#: Remarks for ``ReadReport.flagged``.
IMAGE = "image: 0 tokens counted"
NO_OUTPUT_COUNT = "usage without an output count: counted from the text"

_IMAGES = ("image", "image_url", "input_image")
_UNDERSTOOD = ("text", "input_text", "output_text", "thinking", "refusal", "tool_use", "tool_result")

_KINDS = {"system": "system", "developer": "system", "tool": "tool", "function": "tool", "assistant": "own"}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Part(msgspec.Struct):
    """A part of a content list, of whichever API: the words of all its types at once."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    refusal: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: str | list[_Part | str] | dict[str, Any] | None = None

    @property
    def words(self) -> str:
        """The words of the part, those of the parts inside it included."""
        if self.type == "tool_use":
            return (self.name or "") + _json(self.input)
        if self.type == "tool_result":
            if isinstance(self.content, list):
                return "".join(part if isinstance(part, str) else part.words for part in self.content)
            return _json(self.content)
        return self.text or self.refusal or ""

    def remarks(self) -> Iterator[str]:
        """What the words leave out."""
        if self.type in _IMAGES:
            yield IMAGE
        elif self.type is not None and self.type not in _UNDERSTOOD:
            yield f"content part {self.type!r} not understood: 0 tokens counted"
        if self.type == "tool_result" and isinstance(self.content, list):
            for part in self.content:
                if isinstance(part, _Part):
                    yield from part.remarks()


class Message(msgspec.Struct):
    """A chat message, as far as it matters to token counts."""

    role: str
    content: str | list[_Part | str] | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    reasoning_content: str | None = None
    tool_call_id: str | None = None
    name: str | None = None
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """The words of the content, without reasoning."""
        if isinstance(self.content, list):
            return "".join(part if isinstance(part, str) else part.words for part in self.content)
        return self.content or ""

    @property
    def parts(self) -> list[_Part]:
        """The parts of a content that is a list, bare strings left out."""
        if isinstance(self.content, list):
            return [part for part in self.content if isinstance(part, _Part)]
        return []

    @property
    def calls(self) -> list[_Call]:
        """The tool calls, the older single form included."""
        if self.function_call is not None:
            return [_Call(function=self.function_call), *(self.tool_calls or ())]
        return self.tool_calls or []


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

    def __init__(self, count: TokenCounter) -> None:
        self._count = count
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
            facts.append(self.one(message, tool))
        return facts

    def one(self, message: Message, tool: str | None = None) -> Fact:
        """The fact of one message."""
        parts = message.parts
        reasoning = [message.reasoning_content or "", *(part.thinking for part in parts if part.thinking)]
        words = [message.text]
        for call in message.calls:
            if call.function is not None:
                words += [call.function.name or "", _json(call.function.arguments)]
        counted = hash((*reasoning, None, *words))
        if counted not in self._tokens:
            self._tokens[counted] = sum(self._count(text) for text in (*reasoning, *words) if text)
        results = sum(part.type == "tool_result" for part in parts) or int(message.role in ("tool", "function"))
        remarks = frozenset(remark for part in parts for remark in part.remarks())
        return Fact(message.role, self._tokens[counted], hash((message.role, *words)), tool, results, remarks)

    def raw(self, data: bytes) -> tuple[int, int]:
        """Tokens and key of a JSON text (tool definitions)."""
        key = hash(data)
        if key not in self._tokens:
            self._tokens[key] = self._count(data.decode("utf-8", "replace"))
        return self._tokens[key], key


def _json(value: Any) -> str:
    """A value as text; text as it is."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def add_conversation(
    reading: Reading,
    facts: Sequence[Fact],
    *,
    id: str,
    usages: Sequence[Usage | None] | None = None,
    tools_tokens: int = 0,
    source: Source | None = None,
    line: int | None = None,
) -> None:
    """Add a conversation as a trajectory; its messages are the records.

    ``usages``: one for each assistant message. Logged counts win; what has none is counted from the text, on top of
    the logged length before it.
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
            tool=waited[-1] if waited else None,
            segments=scaled(news, now.prompt - kept),
            cached_tokens=now.cached,
            estimated_tokens=estimated,
        )
        context, begin = now, at + 1


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
