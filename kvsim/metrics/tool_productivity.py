"""Tool productivity: correct answers a tool call (OTC-PO, arXiv 2504.14870)."""

from __future__ import annotations

import numpy.typing as npt

from kvsim.metrics._runs import outcomes


def tool_productivity(correct: npt.ArrayLike, calls: npt.ArrayLike) -> float:
    """Correct answers / tool calls over all attempts; infinite where there were answers without any call, else 0."""
    made, right = outcomes(calls, correct)
    answers, total = int(right.sum()), float(made.sum())
    if not total:
        return float("inf") if answers else 0.0
    return answers / total
