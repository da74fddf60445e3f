"""Policies that hold a finished turn's blocks for a time that is known when it finishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvsim.backends.engine_kernels import FOREVER, NO_PLAN, Plan
from kvsim.retention.pauses import extended

if TYPE_CHECKING:
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch


class Pin:
    """Blocks stay until the next turn has been admitted, unless others cannot run without them."""

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        return NO_PLAN._replace(hold_ns=np.where(extended(batch), FOREVER, 0))


class Ttl:
    """Blocks stay for so many seconds after each turn."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        return NO_PLAN._replace(hold_ns=np.where(extended(batch), round(self.seconds * 1e9), 0))
