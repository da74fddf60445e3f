"""A policy's plan, checked before it reaches the kernels, which check nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvsim.backends.engine_kernels import END, FOREVER, NO_HOST, NO_PLAN, SWAP, Plan
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch

_BOUNDS = {
    "hold_ns": (0, FOREVER),
    "next_use_ns": (END, FOREVER // 2),
    "pause_us": (0, 1 << 40),
    "recompute_us": (0, 1 << 40),
    "swap_us": (0, 1 << 40),
}
"""The least and the most of each column, with which the kernels' sums and products fit 63 bits."""


def checked(plan: Plan, batch: Batch, pricing: Pricing) -> Plan:
    """The plan with its columns as contiguous int64.

    Raises :class:`InputError` for columns of another length than the batch's, values out of range, mechanisms that
    lack another one, a plan for an engine without prefix caching, and one that sliding windows do not have.
    """
    if plan is NO_PLAN:
        return plan
    if not isinstance(plan, Plan):
        raise _refused(f"the policy made {plan!r}", "Return a kvsim.retention.Plan")
    plan = Plan._make(
        _column(name, given, batch.turns) if name in _BOUNDS else given
        for name, given in zip(Plan._fields, plan, strict=True)
    )
    decides = [len(column) for column in (plan.pause_us, plan.recompute_us, plan.swap_us)]
    if any(decides) and not (all(decides) and len(plan.hold_ns)):
        raise _refused("least waste lacks a column", "Give hold_ns, pause_us, recompute_us and swap_us together")
    if not NO_HOST <= plan.host <= SWAP or plan.host_blocks < 0 or not 0 <= plan.load_ns <= 10**12:
        raise _refused(f"no host tier {plan.host, plan.host_blocks, plan.load_ns}", "Use the constants of Plan")
    used = len(plan.hold_ns) or len(plan.next_use_ns) or plan.host != NO_HOST
    if used and not pricing.engine.enable_prefix_caching:
        raise _refused("without prefix caching no later turn finds what is kept", "Enable it, or use lru")
    if (len(plan.next_use_ns) or plan.host != NO_HOST) and tuple(pricing.engine.windows) != (0,):
        raise _refused(
            f"{pricing.architecture.name} has sliding windows: eviction in another order and host tiers are only for "
            "models with full attention in all layers",
            "Use lru, drop, pin, ttl:S or continuum",
        )
    return plan


def _column(name: str, given: object, rows: int) -> Ints:
    column = np.ascontiguousarray(given)
    if column.ndim != 1 or len(column) not in (0, rows) or (len(column) and column.dtype.kind not in "iu"):
        raise _refused(f"{name} is {column.dtype} of shape {column.shape}", f"Give {rows} integers, or none")
    least, most = _BOUNDS[name]
    if len(column) and not (least <= column.min() and column.max() <= most):
        raise _refused(f"{name} goes from {column.min()} to {column.max()}", f"Stay within {least} to {most}")
    return column.astype(np.int64)


def _refused(problem: str, remedy: str) -> InputError:
    return InputError(problem, field="retention", remedy=remedy)
