"""Confirmatory tool usage: the model has said the value already, and then has a tool compute it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvsim.insight.patterns.finding import Finding, at_call
from kvsim.insight.patterns.outcome import bare, outcome
from kvsim.insight.patterns.shell import runs_code
from kvsim.insight.patterns.tool_kinds import CALCULATOR, NOTES, arguments_of, command_of, kind_of

if TYPE_CHECKING:
    from kvsim.insight.transcript import Call, Transcript

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CODE_NAMES = re.compile(r"python|interpreter|jupyter|code|repl", re.IGNORECASE)
_FEWEST_DIGITS = 3
_FEWEST_CHARACTERS = 5
_MOST_CHARACTERS = 400


class Confirmatory:
    """Fires at a call that runs code or calculates, where the value it brings stands in the model's words before it.

    Numbers count from three digits on; other values are lines of a few characters at least. Words of the model are its
    text without code, its reasoning, and its notes to itself.
    """

    name = "confirmatory tool use"
    title = "a tool computes what the model has said already"

    def find(self, transcript: Transcript) -> Iterable[Finding]:
        said: list[str] = []
        calls = iter(transcript.calls)
        call = next(calls, None)
        for message in transcript.wrote():
            own = message.said.text if call is None or call.part != "text" else message.said.text[: call.begin]
            said += [_CODE.sub("", text) for text in (message.said.reasoning, own)]
            while call is not None and call.message.number == message.number:
                if kind_of(call) == NOTES:
                    said += [value for value in (arguments_of(call) or {}).values() if isinstance(value, str)]
                elif _computes(call) and (value := _stated(call, "\n".join(said))) is not None:
                    yield at_call(transcript, call, f"{call.name}: {value}")
                call = next(calls, None)


def _computes(call: Call) -> bool:
    if kind_of(call) == CALCULATOR or _CODE_NAMES.search(call.name or ""):
        return True
    command = command_of(call)
    return command is not None and runs_code(command)


def _stated(call: Call, said: str) -> str | None:
    """The value that a call brought, if the words say it."""
    if call.answer is None or outcome(call) is not None:
        return None
    result = bare(call.answer.said.text)
    if not result or len(result) > _MOST_CHARACTERS:
        return None
    value = result.splitlines()[-1].strip()
    numbers = _NUMBER.findall(value)
    if len(numbers) == 1 and len(value) <= len(numbers[0]) + _FEWEST_CHARACTERS:
        wanted = _as_number(numbers[0])
        if wanted is None or sum(digit.isdigit() for digit in f"{wanted:g}") < _FEWEST_DIGITS:
            return None
        return value if any(_as_number(number) == wanted for number in _NUMBER.findall(said)) else None
    return value if len(value) >= _FEWEST_CHARACTERS and value in said else None


def _as_number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
