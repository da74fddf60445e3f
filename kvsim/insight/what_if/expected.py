"""What changes should save to first order, so that only those that may matter are priced.

Every turn's cost is taken to fall with the length of its context at the rate at which it does when all contexts are
shortened by :data:`SHORTENED` tokens; a stretch that goes saves its own prefill, and in all turns behind it that rate
times its tokens. That is exact where costs are linear in the context and it survives pauses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim._door import sealed
from kvsim.backends import get
from kvsim.estimation import Estimate
from kvsim.insight.what_if.families import levels
from kvsim.trajectory import Batch, Ints, Numbered

if TYPE_CHECKING:
    from kvsim.insight.what_if.families import Families
    from kvsim.pricing import Pricing

Floats = npt.NDArray[np.float64]

SHORTENED = 1024
"""By how many tokens all contexts are shortened to see what a token of context costs."""


@dataclass(frozen=True, eq=False)
class Expected:
    """Costs of turns in seconds, shape (rows,).

    ``model_s``: a turn's own time. ``pause_s``: the pause before it. ``prefill_s``: of its time the prefill.
    ``behind_s``: what a token more in its own part costs in it and all turns that go on from it, its prefill apart.
    """

    model_s: Floats
    pause_s: Floats
    prefill_s: Floats
    behind_s: Floats

    @classmethod
    def of(cls, estimate: Estimate, families: Families) -> Expected:
        """From an estimate; turns that could not be priced cost nothing."""
        batch = estimate.batch
        columns = estimate.columns
        per_token = _per_token(batch, estimate.pricing, estimate.backend, estimate.model_ns / 1e9)
        return cls(
            model_s=estimate.model_ns / 1e9,
            pause_s=estimate.pauses_ns / 1e9,
            prefill_s=(columns.fresh_ns + columns.recompute_ns) / 1e9,
            behind_s=_and_behind(per_token, batch.parent, families.depth),
        )

    def response(self, batch: Batch, rows: Ints, tokens: Ints) -> Floats:
        """What so many tokens less in the responses that rows read should save."""
        new = np.maximum(batch.prompt_tokens - batch.kept_tokens, 1)[rows]
        saved: Floats = self.prefill_s[rows] * np.minimum(tokens / new, 1.0) + tokens * self.behind_s[rows]
        return saved

    def call(self, batch: Batch, rows: Ints, *, pauses: bool) -> Floats:
        """What leaving out the calls whose responses rows read should save."""
        made = batch.parent[rows]
        tokens = np.maximum(batch.prompt_tokens[rows] - batch.prompt_tokens[made], 0)
        saved: Floats = self.model_s[made] - self.prefill_s[made] + self.prefill_s[rows] + tokens * self.behind_s[rows]
        return saved + self.pause_s[rows] if pauses else saved

    def summary(self, batch: Batch, rows: Ints, kept: Ints) -> Floats:
        """What contexts shorter by all but ``kept`` tokens should save from rows on; the summary's own cost apart."""
        saved: Floats = (batch.kept_tokens[rows] - kept) * self.behind_s[rows]
        return saved


def _per_token(batch: Batch, pricing: Pricing, backend: str, model_s: Floats) -> Floats:
    kept = np.where(batch.parent < 0, 0, np.maximum(batch.kept_tokens - SHORTENED, 0))
    less = np.where(batch.parent < 0, np.minimum(batch.prompt_tokens - 1, SHORTENED), batch.kept_tokens - kept)
    shorter = Batch(
        parent=batch.parent,
        after=batch.after,
        kept_tokens=kept,
        prompt_tokens=batch.prompt_tokens - less,
        output_tokens=batch.output_tokens,
        pause_ns=batch.pause_ns,
        arrival_ns=batch.arrival_ns,
        trajectory=batch.trajectory,
        waits_for=batch.waits_for,
        ids=Numbered(len(batch)),
        order=batch.order,
    )
    after_s = Estimate(sealed(shorter), pricing, get(backend)).model_ns / 1e9
    counts = (batch.parent >= 0) & (less > 0) & (after_s > 0)
    saved: Floats = np.where(counts, np.maximum(model_s - after_s, 0.0) / np.maximum(less, 1), 0.0)
    return saved


def _and_behind(values: Floats, parent: Ints, depth: Ints) -> Floats:
    """Each row's value and those of all rows that go on from it."""
    sums = values.copy()
    for rows in levels(depth)[:0:-1]:
        np.add.at(sums, parent[rows], sums[rows])
    return sums
