"""Tool mixing: tools of more than one kind in one trajectory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvsim.insight.patterns.finding import Finding, at_call
from kvsim.insight.patterns.tool_kinds import NOTES, kind_of

if TYPE_CHECKING:
    from kvsim.insight.transcript import Transcript


class Mixing:
    """Fires at the first call of each kind but the first. Search and visits of pages are one kind."""

    name = "tool mixing"
    title = "tools of more than one kind in one trajectory"

    def find(self, transcript: Transcript) -> Iterable[Finding]:
        kinds: list[str] = []
        for call in transcript.calls:
            kind = kind_of(call)
            if kind == NOTES or kind in kinds:
                continue
            kinds.append(kind)
            if len(kinds) > 1:
                yield at_call(transcript, call, f"{kind} beside {', '.join(kinds[:-1])}")
