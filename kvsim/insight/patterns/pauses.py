"""Pauses past the break-even: to keep the context through them costs more of the cache than to compute it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvsim.backends import get
from kvsim.estimation import Estimate
from kvsim.insight.patterns.finding import Finding

if TYPE_CHECKING:
    from kvsim.trajectory import Ints


class LongPauses:
    """Fires at a turn whose pause lasts longer than its context is worth keeping.

    A context that fills a share of the KV cache for so many seconds keeps others out of that share for as long; to
    compute it again takes the whole GPU for a while. Past the break-even share x pause exceeds that time.
    """

    name = "pause past break-even"
    title = "a pause in which keeping the context costs more than computing it again"

    def find(self, estimate: Estimate) -> Iterable[Finding]:
        batch, pricing = estimate.batch, estimate.pricing
        evicting = replace(pricing, load=replace(pricing.load, kv="always"))
        again_s = Estimate(batch, evicting, get(estimate.backend)).columns.recompute_ns / 1e9
        kept, pauses_ns = _kept_blocks(estimate) * pricing.engine.block_size, estimate.pauses_ns
        held_s = kept / max(pricing.engine.kv_capacity_tokens, 1) * pauses_ns / 1e9
        for row in np.flatnonzero((again_s > 0) & (held_s > again_s)).tolist():
            pause_s = pauses_ns[row] / 1e9
            yield Finding(row, f"{pause_s:,.0f} s for {kept[row]:,} tokens that take {again_s[row]:.3g} s to compute")


def _kept_blocks(estimate: Estimate) -> Ints:
    """Whole blocks of its parent's context that each turn could find, shape (rows,)."""
    batch, size = estimate.batch, estimate.pricing.engine.block_size
    whole = batch.prompt_tokens + np.maximum(batch.output_tokens, 1) - 1
    reusable = np.minimum(batch.kept_tokens, np.minimum(whole[batch.parent], batch.prompt_tokens - 1))
    return np.where(batch.parent >= 0, reusable // size, 0)
