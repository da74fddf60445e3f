"""Inefficiency patterns as a page has them: how often, what they go with, and where they fired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.report.spans import numbers_within

if TYPE_CHECKING:
    from kvsim.insight import Transcripts
    from kvsim.insight.advice import Advice
    from kvsim.insight.patterns import Finding, PatternFound

Json = dict[str, Any]

MOST = 300
"""So many occurrences of a pattern a page lists."""

EXCERPT = 160
"""So many characters of what a pattern fired on are shown."""


def pattern_facts(advice: Advice, transcripts: Transcripts | None) -> Json:
    """The patterns in their order, and how many trajectories have text; turns count from 0 within a trajectory."""
    owner = advice.batch.trajectory
    turn = numbers_within(owner)

    def listed(pattern: PatternFound) -> Json:
        findings = pattern.findings[:MOST]
        rows = np.array([finding.row for finding in findings], np.int64)
        return {
            "trajectory": owner[rows].tolist(),
            "turn": turn[rows].tolist(),
            "detail": [finding.detail for finding in findings],
            "excerpt": [_excerpt(finding, transcripts) for finding in findings],
        }

    told = ("name", "title", "looked_at", "fired", "share", "hint", "needs_text")
    return {
        "with_text": 0 if transcripts is None else len(transcripts),
        "found": [
            {name: getattr(pattern, name) for name in told}
            | {
                "multiplier": None if pattern.multiplier is None else pattern.multiplier._asdict(),
                "occurrences": len(pattern.findings),
                "findings": listed(pattern),
            }
            for pattern in advice.patterns
        ],
    }


def _excerpt(finding: Finding, transcripts: Transcripts | None) -> str:
    """The start of the words that a pattern fired on; nothing where it fired on counts alone."""
    span = finding.span
    if span is None or transcripts is None:
        return ""
    said = transcripts.by_trajectory[span.trajectory].messages[span.message].said
    called = span.part.startswith("calls[")
    text = said.calls[int(span.part[6:-1])].arguments if called else getattr(said, span.part)
    words = " ".join(text[span.begin : min(span.end, span.begin + 4 * EXCERPT)].split())
    return words if len(words) <= EXCERPT else words[: EXCERPT - 1] + "…"
