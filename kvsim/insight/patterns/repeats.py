"""Repeated identical calls: the same tool, the same arguments, the same response, and nothing changed in between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from kvsim.insight.patterns.finding import Finding, at_call
from kvsim.insight.patterns.outcome import bare, outcome
from kvsim.insight.patterns.tool_kinds import arguments_of, changes_something

if TYPE_CHECKING:
    from kvsim.insight.transcript import Call, Transcript


class Repeats:
    """Fires at the later call. What counts as change: edits, writing commands, calls that are not mere look-ups."""

    name = "repeated call"
    title = "a call made again that could only bring the same"

    def find(self, transcript: Transcript) -> Iterable[Finding]:
        seen: dict[tuple[str | None, str], tuple[int, str | None, Call]] = {}
        state = 0
        for call in transcript.calls:
            key = (call.name, _canonical(call))
            answer = bare(call.answer.said.text) if call.answer is not None else None
            before = seen.get(key)
            if before is not None and before[0] == state and answer is not None and answer == before[1]:
                yield at_call(transcript, call, f"{call.name}: as in turn {before[2].message.turn}")
            seen[key] = (state, answer, call)
            became = outcome(call)
            if changes_something(call) and (became is None or became.kind != "failed"):
                state += 1


def _canonical(call: Call) -> str:
    """The arguments without what spelling leaves open: the order of keys, spaces around words."""
    given = arguments_of(call)
    if given is not None:
        return msgspec.json.encode(given, order="sorted").decode()
    return " ".join(call.arguments.split())
