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
#: Parallel responses may stand between a response and the next answer.
_NEAR = 32
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


class Unused:
    """Fires at a long response that the next answer says nothing about, and none of whose own words comes later.

    The next answer speaks of a response if it has a word of it, or of the call's arguments. Later on only words tell
    that stood nowhere before, unless nearly all of them had (something looked at again).
    """

    name = "unused response"
    title = "a long tool response that nothing later refers to"

    def find(self, transcript: Transcript) -> Iterable[Finding]:
        answers = {call.answer.number: call for call in transcript.calls if call.answer is not None}
        known: set[str] = set()
        later = _words_said_from(transcript)
        for at, message in enumerate(transcript.messages):
            words = set(_DISTINCT.findall(_everything(message)))
            call = answers.get(message.number)
            if call is not None and _tells_much(call):
                asked = set(_DISTINCT.findall(call.arguments))
                own = words - known
                if len(own) < _OWN_SHARE * len(words):
                    own = words - asked
                if not own & later.get(message.number, set()) and not (words | asked) & _next_words(transcript, at):
                    characters = len(message.said.text)
                    yield at_answer(transcript, call, f"{call.name}: {characters:,} characters")
            known |= words


def _next_words(transcript: Transcript, at: int) -> set[str]:
    """The distinct words of the next answer's text, code left out."""
    for message in transcript.messages[at + 1 : at + 1 + _NEAR]:
        if message.said.role == "assistant":
            return set(_DISTINCT.findall(_CODE.sub("", f"{message.said.reasoning}\n{message.said.text}")))
    return set()


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
