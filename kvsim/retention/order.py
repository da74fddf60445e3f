"""Policies that evict the blocks whose next use is furthest away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvsim.backends.engine_kernels import END, NO_PLAN, Plan
from kvsim.retention.pauses import expected_gap_ns, extended, gap_ns

if TYPE_CHECKING:
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch


class NextUse:
    """KVFlow's order (arXiv 2507.07400): the context whose next call is furthest away goes first.

    The expected pause is the mean over the batch of those for the same tool.
    """

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        return NO_PLAN._replace(next_use_ns=np.where(extended(batch), expected_gap_ns(batch, pricing), END))


class Belady:
    """The same order with each pause known in advance: what no policy can know.

    A bound for orders of eviction under the pool's rules, not for all policies: prefixes that several contexts share
    are kept longest, contexts are cut from their end, time in queues is not foreseen, and what is admitted is not
    chosen by it.
    """

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        children = np.flatnonzero(batch.parent >= 0)
        never = np.iinfo(np.int64).max
        soonest = np.full(batch.turns, never)
        np.minimum.at(soonest, batch.parent[children], gap_ns(batch, pricing)[children])
        return NO_PLAN._replace(next_use_ns=np.where(soonest == never, END, soonest))
