"""What cost what, and why: an estimate or a simulation taken apart.

Names are loaded on first use. Nothing that prices, simulates or reads logs knows of this layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvsim._lazy import lazy

if TYPE_CHECKING:
    from kvsim.insight.advice import Advice, explain
    from kvsim.insight.attribution import Attribution, attribute
    from kvsim.insight.comparison import Comparison, Run, compare
    from kvsim.insight.patterns import PatternFound, find_patterns
    from kvsim.insight.saving import Saving
    from kvsim.insight.transcript import Transcripts

_HOME = {
    "Advice": "advice",
    "Attribution": "attribution",
    "Comparison": "comparison",
    "Run": "comparison",
    "PatternFound": "patterns",
    "Saving": "saving",
    "Transcripts": "transcript",
    "attribute": "attribution",
    "compare": "comparison",
    "explain": "advice",
    "find_patterns": "patterns",
}

__all__ = [
    "Advice",
    "Attribution",
    "Comparison",
    "PatternFound",
    "Run",
    "Saving",
    "Transcripts",
    "attribute",
    "compare",
    "explain",
    "find_patterns",
]

__getattr__, __dir__ = lazy(__name__, _HOME)
