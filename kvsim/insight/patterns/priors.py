"""Lack of tool priors: calls that fail, or bring nothing where they asked for something."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvsim.insight.patterns.finding import Finding, at_answer
from kvsim.insight.patterns.outcome import outcome

if TYPE_CHECKING:
    from kvsim.insight.transcript import Transcript

_MOST_WORDS = 120


class LackOfPriors:
    """Fires at the response. Commands that are silent when they succeed, and failing tests, do not count."""

    name = "lack of tool priors"
    title = "tool calls that failed or brought nothing"

    def find(self, transcript: Transcript) -> Iterable[Finding]:
        for call in transcript.calls:
            if (found := outcome(call)) is not None:
                yield at_answer(transcript, call, f"{call.name}: {found.words[:_MOST_WORDS]}")
