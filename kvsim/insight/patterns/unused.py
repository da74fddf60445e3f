"""Oversized responses that are never referred to again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from kvsim.insight.patterns.finding import Finding, at_answer
from kvsim.insight.patterns.outcome import bare, outcome
from kvsim.insight.patterns.tool_kinds import changes_something

if TYPE_CHECKING:
    from kvsim.insight.transcript import Call, Message, Transcript

LEAST_CHARACTERS = 2000
"""From what length on a response is looked at: some 570 tokens."""

#: Words that hardly stand in two texts by chance: names with a mark, a digit or a capital inside, long words, numbers.
_DISTINCT = re.compile(r"[A-Za-z_][\w./-]*[A-Z_./\d-][\w./-]*|[A-Za-z]{9,}|\d{3,}")
#: Below this share of words that are its own, a response repeats what was read before.
_OWN_SHARE = 0.2


class Unused:
    """Fires at a long response none of whose own words the model says later.

    Words said before it do not tell, unless nearly all of it was (something looked at again).
    """

    name = "unused response"
    title = "a long tool response that nothing later refers to"

    def find(self, transcript: Transcript) -> Iterable[Finding]:
        answers = {call.answer.number: call for call in transcript.calls if call.answer is not None}
        known: set[str] = set()
        later = _words_said_from(transcript)
        for message in transcript.messages:
            words = set(_DISTINCT.findall(_everything(message)))
            call = answers.get(message.number)
            if call is not None and _tells_much(call):
                own = words - known
                if len(own) < _OWN_SHARE * len(words):
                    own = words - set(_DISTINCT.findall(call.arguments))  # seen before: then any of its words tells
                if not own & later.get(message.number, set()):
                    characters = len(message.said.text)
                    yield at_answer(transcript, call, f"{call.name}: {characters:,} characters")
            known |= words


def _tells_much(call: Call) -> bool:
    """Whether a call was a question with a long answer; what edits echo is there to be glanced at."""
    answer = call.answer
    if answer is None or len(bare(answer.said.text)) < LEAST_CHARACTERS:
        return False
    return outcome(call) is None and not changes_something(call)


def _words_said_from(transcript: Transcript) -> dict[int, set[str]]:
    """For each message read, the distinct words that the model says after it."""
    found: dict[int, set[str]] = {}
    after: set[str] = set()
    for message in reversed(transcript.messages):
        if message.said.role == "assistant":
            after = after | set(_DISTINCT.findall(_everything(message)))
        else:
            found[message.number] = after
    return found


def _everything(message: Message) -> str:
    return "\n".join(_parts(message))


def _parts(message: Message) -> Iterator[str]:
    yield message.said.text
    yield message.said.reasoning
    for call in message.said.calls:
        yield call.arguments
