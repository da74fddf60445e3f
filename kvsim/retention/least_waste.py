"""InferCept's choice at each pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvsim.backends.engine_kernels import SWAP, Plan
from kvsim.retention.hold import Pin
from kvsim.retention.pauses import context_tokens, expected_gap_ns, prefill_ns

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.pricing import Pricing
    from kvsim.retention.offload import HostTier
    from kvsim.trajectory import Batch


class MinWaste:
    """Hold, discard or, with a host tier, swap: whichever wastes least memory x time (arXiv 2402.01869).

    The waste of holding is the expected pause x the context's blocks, of discarding the time of its recomputation x
    the blocks of all who run, of swapping twice the time of its transfer x the same.
    """

    def __init__(self, tier: HostTier | None = None) -> None:
        self.tier = tier

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        tokens = context_tokens(batch)
        held = Pin().plan(batch, pricing)
        held = held if self.tier is None else self.tier.on(held, pricing, SWAP)
        return held._replace(
            pause_us=_us(expected_gap_ns(batch, pricing)),
            recompute_us=_us(prefill_ns(tokens, pricing)),
            swap_us=_us(tokens // pricing.engine.block_size * held.load_ns),
        )


def _us(nanoseconds: Ints) -> Ints:
    """Whole microseconds, at most 2^40 (12 days), which times any number of blocks fits 63 bits."""
    return np.minimum(nanoseconds // 1000, 1 << 40)
