"""A rollout's text cut into what the model wrote and what it read, by the marks of chat templates.

Trainers dump the response of a rollout as one text, tool responses included. Where special tokens were kept, the
template's own marks cut it. Where they were left out (verl decodes without them), what is left of the marks does: the
words of the roles, and the tags that models are taught for tools.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from kvsim.logs.messages import TEMPLATE_TOKENS
from kvsim.logs.said import Called, Exchange, Said
from kvsim.logs.turns import Turn
from kvsim.tokens import TokenCounter

#: What the model read between two of its turns; the first that is found anywhere is used for the whole text.
_MARKS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        # ChatML (Qwen, Hermes) and Llama 3, special tokens kept
        r"<\|im_end\|>\s*<\|im_start\|>(?:user|tool)\n(?P<read>.*?)<\|im_end\|>\s*<\|im_start\|>assistant\n",
        r"<\|eo[tm]_id\|><\|start_header_id\|>(?:ipython|tool|user)<\|end_header_id\|>\n\n"
        r"(?P<read>.*?)<\|eot_id\|><\|start_header_id\|>assistant<\|end_header_id\|>\n\n",
        # the same, special tokens left out
        r"\n(?:user|tool)\n(?P<read>(?:\s*<tool_response>.*?</tool_response>)+)\s*assistant\n",
        r"(?:ipython|tool)\n\n(?P<read>.*?)assistant\n\n",
        # responses put into the model's own turn (search agents)
        r"(?P<read><(?P<tag>information|tool_response|result|output)>.*?</(?P=tag)>)",
    )
)

_CALLS = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')


class Cut(NamedTuple):
    """A text in turns: ``written`` has one more element than ``read``, what stands between them."""

    written: list[str]
    read: list[str]


def cut(text: str) -> Cut:
    """The text at the marks of a template; a text without marks is one turn."""
    for mark in _MARKS:
        if found := list(mark.finditer(text)):
            ends = [0, *(match.end() for match in found)]
            starts = [*(match.start() for match in found), len(text)]
            written = [text[begin:end] for begin, end in zip(ends, starts, strict=True)]
            return Cut(written, [match["read"] for match in found])
    return Cut([text], [])


def cut_at(text: str, responses: Sequence[str]) -> tuple[Cut, list[int]]:
    """The text at tool responses known from elsewhere, and which of them, in their order, were found in it."""
    written: list[str] = []
    found: list[int] = []
    at = 0
    for number, response in enumerate(responses):
        wanted = response.strip()
        place = text.find(wanted, at) if wanted else -1
        if place >= 0:
            written.append(text[at:place])
            found.append(number)
            at = place + len(wanted)
    return Cut([*written, text[at:]], [responses[number].strip() for number in found]), found


def tools_called(written: str) -> list[str]:
    """The names of the tools that a turn's text calls, ``<tool_call>{"name": ...}</tool_call>``."""
    found = (_NAME.search(call) for call in _CALLS.findall(written))
    return [name[1] for name in found if name]


def said_in(prompt: str, cut: Cut) -> list[Exchange]:
    """What was said in the turns that :func:`turns_of` makes."""
    exchanges: list[Exchange] = []
    read = [Said("user", prompt)]
    for number, written in enumerate(cut.written):
        if written or (number + 1 == len(cut.written) and not exchanges):
            exchanges.append(Exchange(tuple(read), Said("assistant", written, calls=_calls_in(written))))
            read = []
        if number < len(cut.read):
            names = tools_called(written)
            read.append(Said("tool", cut.read[number], tool=names[-1] if names else None))
    return exchanges


def _calls_in(written: str) -> tuple[Called, ...]:
    """The tool calls in a turn's text, their JSON as it stands."""
    found = []
    for call in _CALLS.findall(written):
        name = _NAME.search(call)
        found.append(Called(name[1] if name else None, call.strip()))
    return tuple(found)


def turns_of(prompt: str, cut: Cut, count: TokenCounter, pauses_s: Sequence[float | None] = ()) -> list[Turn]:
    """Turns with tokens counted from the text; ``pauses_s``: one for each text read, None where not logged.

    A turn in which nothing was written is left out, except where there is no other.
    """
    context, turns = count(prompt), list[Turn]()
    pause_s: float | None = 0.0
    tools: list[str] = []
    for number, written in enumerate(cut.written):
        output = count(written)
        if output or (number + 1 == len(cut.written) and not turns):
            turns.append(Turn(context, output, pause_s, tools))
            pause_s, tools = 0.0, []
        context += output
        if number < len(cut.read):
            context += count(cut.read[number]) + TEMPLATE_TOKENS
            more = pauses_s[number] if number < len(pauses_s) else None
            pause_s = None if pause_s is None or more is None else pause_s + more
            tools = [*tools, *tools_called(written)]
    return turns
