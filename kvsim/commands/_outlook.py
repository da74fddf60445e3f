"""Prices and their worst case, for each GPU asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kvsim.commands._pricing_facts import price_warnings
from kvsim.commands._reading_facts import read_warnings
from kvsim.estimation import Estimate, estimate

if TYPE_CHECKING:
    from kvsim.load import Load
    from kvsim.trajectory import Batch


@dataclass(frozen=True)
class Outlook:
    """What a batch costs on one GPU under the declared load, and where every tool pause evicts its KV cache."""

    estimate: Estimate
    evicted: Estimate


def look_out(batch: Batch, *, gpus: Sequence[str], load: Load, **how: Any) -> list[Outlook]:
    """The batch's outlook on each GPU; ``how`` are the other arguments of :func:`kvsim.estimate`."""
    evicting = replace(load, kv="always")
    found = []
    for gpu in gpus:
        declared = estimate(batch, gpu=gpu, load=load, **how)
        evicted = declared if evicting == load else estimate(batch, gpu=gpu, load=evicting, **how)
        found.append(Outlook(declared, evicted))
    return found


def warnings(outlooks: Sequence[Outlook]) -> list[str]:
    """What needs attention of the read and of each GPU's prices."""
    found = read_warnings(outlooks[0].estimate.batch)
    for outlook in outlooks:
        found += price_warnings(outlook.estimate)
    return found
