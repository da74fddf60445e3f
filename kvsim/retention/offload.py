"""A host tier behind the GPU's blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvsim.backends.engine_kernels import NO_PLAN, ON_EVICTION, WRITE_THROUGH, Plan
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch


@dataclass(frozen=True)
class HostTier:
    """``gib`` of host memory for blocks, of which each GPU loads its share at ``gb_per_s``."""

    gib: float
    gb_per_s: float

    def on(self, plan: Plan, pricing: Pricing, host: int) -> Plan:
        """The plan with this tier, stored into as ``host`` says. Raises :class:`InputError` if no block fits."""
        blocks = int(self.gib * 2**30) // pricing.kv_bytes_per_block
        if blocks == 0:
            raise InputError(
                f"{self.gib:g} GiB hold not one block of {pricing.kv_bytes_per_block} bytes",
                field="retention",
                remedy="Give more host memory",
            )
        return plan._replace(host=host, host_blocks=blocks, load_ns=self.load_ns(pricing))

    def load_ns(self, pricing: Pricing) -> int:
        """Time of one block on the link. A gigabyte per second is a byte per nanosecond."""
        return round(pricing.engine.kv_bytes_per_block / self.gb_per_s)


class Offload:
    """Blocks go to the host tier when a request gives them back; ``lazy``: not before they are evicted."""

    def __init__(self, tier: HostTier, *, lazy: bool = False) -> None:
        self.tier = tier
        self.lazy = lazy

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        return self.tier.on(NO_PLAN, pricing, ON_EVICTION if self.lazy else WRITE_THROUGH)
