"""A price and its worst case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.estimation import Estimate


@dataclass(frozen=True)
class Outlook:
    """What a batch costs on one GPU under the declared load, and where every tool pause evicts its KV cache."""

    estimate: Estimate
    evicted: Estimate
