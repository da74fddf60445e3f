"""Cache-busting prefix edits: a context changed near its beginning, so that all behind it is prefilled again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from kvsim.insight.patterns.finding import Finding

if TYPE_CHECKING:
    from kvsim.estimation import Estimate

LEAST_TOKENS = 256
#: A prompt of less than this share of the one before was compacted on purpose.
COMPACTED = 0.8


class PrefixEdits:
    """Fires at a turn whose prompt is about as long as its parent's, and yet keeps less of it by many tokens."""

    name = "prefix edit"
    title = "a context changed before its end, so that all behind is prefilled again"

    def find(self, estimate: Estimate) -> Iterable[Finding]:
        batch = estimate.batch
        before = np.where(batch.parent >= 0, batch.prompt_tokens[batch.parent], 0)
        lost = np.minimum(before, batch.prompt_tokens) - batch.kept_tokens
        edited = (batch.parent >= 0) & (lost >= LEAST_TOKENS) & (batch.prompt_tokens >= COMPACTED * before)
        for row in np.flatnonzero(edited).tolist():
            kept, whole = int(batch.kept_tokens[row]), int(before[row])
            yield Finding(row, f"{lost[row]:,} tokens again: the first {kept:,} of {whole:,} are the same")
