"""The checks at the door: what makes a batch valid, said once, so that no kernel checks anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.trajectory import Batch

Ints = npt.NDArray[np.int64]

#: What a stretch of new prompt tokens is made of (``segments``).
SEGMENT_KINDS = ("system", "tools", "user", "tool", "own")

#: No turn has more tokens than this: 2^30, a thousand times the longest context served today.
MAX_TOKENS = 1 << 30
#: No single pause or arrival exceeds this: 10^17 ns, about three years.
MAX_NS = 10**17
#: The sum of all pauses plus the last arrival stays below this, so that no timestamp overflows 64 bits.
MAX_TOTAL_NS = 1 << 61


Origin = Callable[[int], tuple[str | None, int | None]]
"""From a row to the file and line it came from."""


REMEDIES = {
    "parent": "Give the row number of another turn, or -1 for none",
    "after": "Give the row number of another turn, or -1 where the turn comes at its own arrival time",
    "waits_for": "Give row numbers of other turns",
    "prompt_tokens": "A request has at least one prompt token; check the log's usage counts",
    "output_tokens": "Counts are not negative; check the log's usage counts",
    "kept_tokens": "At most the prompt, and at most the parent's prompt + output, can be kept",
    "pause_ns": "Times are nanoseconds from 0 to 10^17; check units and clock",
    "arrival_ns": "Times are nanoseconds from 0 to 10^17, counted from the first arrival; check units and clock",
    "trajectory": "Number trajectories 0, 1, 2, ...: numpy.unique(ids, return_inverse=True)[1] does that",
    "prefix": "A named prefix belongs to a root (parent -1); use -1 elsewhere",
    "tool": "Give an index into the tool names, or -1 for none",
    "priority": "Priorities are 32-bit integers",
    "cached_tokens": "At most the prompt can be cached; use -1 where it was not logged",
    "ttft_ns": "Times are not negative; use -1 where it was not logged",
    "e2e_ns": "Times are not negative; use -1 where it was not logged",
    "estimated_tokens": "At most the new and output tokens can be estimated",
    "segments": "Kinds are system, tools, user, tool and own; their tokens sum to at most prompt - kept",
}


def checked(batch: Batch, origin: Origin) -> Batch:
    """The batch with its order, after every check; columns are made read-only."""
    _check_values(batch, origin)
    object.__setattr__(batch, "order", _order(batch, origin))
    return sealed(batch)


def sealed(batch: Batch) -> Batch:
    """The batch with its columns read-only."""
    for column in batch.columns.values():
        column.flags.writeable = False
    return batch


def _refuse(batch: Batch, origin: Origin, row: int, name: str, problem: str) -> NoReturn:
    file, line = origin(row)
    trajectory = int(batch.trajectory[row])
    who = f"row {row}"
    if 0 <= trajectory < len(batch.ids) and batch.named:
        turn = int(np.count_nonzero(batch.trajectory[:row] == trajectory))
        who = f"turn {turn} of trajectory {batch.ids[trajectory]!r}"
    error = InputError(f"{who}: {problem}", file=file, line=line, field=name, remedy=REMEDIES[name])
    error.trajectory = trajectory
    raise error


def _check_values(batch: Batch, origin: Origin) -> None:
    rows = batch.turns

    def within(name: str, values: Ints, low: Any, high: Any, owners: Ints | None = None) -> None:
        bad = (values < low) | (values > high)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = at if owners is None else int(owners[at])
            bounds = [int(np.broadcast_to(bound, values.shape)[at]) for bound in (low, high)]
            problem = f"{name} is {int(values[at])}, outside {bounds[0]} to {bounds[1]}"
            _refuse(batch, origin, row, name, problem)

    within("trajectory", batch.trajectory, 0, max(rows - 1, 0))
    if rows and np.count_nonzero(np.bincount(batch.trajectory)) != len(batch.ids):
        missing = np.setdiff1d(np.arange(len(batch.ids)), batch.trajectory)
        what = f"trajectory {missing[0]} has no turn" if missing.size else "more trajectories than ids"
        raise InputError(what, field="trajectory", remedy=REMEDIES["trajectory"])
    if batch.named and len(set(batch.ids)) < len(batch.ids):
        twice = next(name for name, count in Counter(batch.ids).items() if count > 1)
        raise InputError(f"two trajectories are called {twice!r}", field="ids", remedy="Give each a name of its own")
    within("parent", batch.parent, -1, rows - 1)
    within("prompt_tokens", batch.prompt_tokens, 1, MAX_TOKENS)
    within("output_tokens", batch.output_tokens, 0, MAX_TOKENS)
    has_parent = batch.parent >= 0
    length = batch.prompt_tokens + batch.output_tokens
    keepable = np.where(has_parent, length[batch.parent] if rows else length, MAX_TOKENS)
    if batch.prefix is None:
        keepable[~has_parent] = 0
    else:
        within("prefix", batch.prefix, -1, np.where(has_parent, -1, len(batch.prefix_names) - 1))
        keepable[~has_parent & (batch.prefix < 0)] = 0
    within("kept_tokens", batch.kept_tokens, 0, np.minimum(keepable, batch.prompt_tokens))
    within("pause_ns", batch.pause_ns, 0, MAX_NS)
    within("arrival_ns", batch.arrival_ns, 0, MAX_NS)
    if rows and float(batch.pause_ns.sum(dtype=float)) + float(batch.arrival_ns.max()) > MAX_TOTAL_NS:
        raise InputError(
            "all pauses together exceed 2^61 ns, so that timestamps would overflow",
            field="pause_ns",
            remedy="Split the batch, or check the units",
        )
    if batch.after is not batch.parent:
        within("after", batch.after, -1, rows - 1)
    if batch.waits_for is not None:
        within("waits_for", batch.waits_for.values, 0, rows - 1, batch.waits_for.owners)
    if batch.tool is not None:
        within("tool", batch.tool, -1, len(batch.tool_names) - 1)
    if batch.priority is not None:
        within("priority", batch.priority, -(1 << 31), (1 << 31) - 1)
    if batch.cached_tokens is not None:
        within("cached_tokens", batch.cached_tokens, -1, batch.prompt_tokens)
    for name in ("ttft_ns", "e2e_ns"):
        if (values := getattr(batch, name)) is not None:
            within(name, values, -1, MAX_NS)
    new = batch.prompt_tokens - batch.kept_tokens
    if batch.estimated_tokens is not None:
        within("estimated_tokens", batch.estimated_tokens, 0, new + batch.output_tokens)
    if batch.segments is not None:
        owners = batch.segments.owners
        within("segments", batch.segments.tokens, 0, MAX_TOKENS, owners)
        within("segments", batch.segments.kind, 0, len(SEGMENT_KINDS) - 1, owners)
        within("segments", batch.segments.tool, -1, len(batch.tool_names) - 1, owners)
        sums = np.bincount(owners, weights=batch.segments.tokens, minlength=rows).astype(np.int64)
        within("segments", sums, 0, new)


def _order(batch: Batch, origin: Origin) -> Ints | None:
    """Rows in dependency order, or None where they already stand in one. Raises on a cycle."""
    number = np.arange(batch.turns)
    in_order = bool((batch.parent < number).all())
    if in_order and batch.after is not batch.parent:
        in_order = bool((batch.after < number).all())
    if in_order and batch.waits_for is not None:
        in_order = bool((batch.waits_for.values < batch.waits_for.owners).all())
    if in_order:
        return None
    from kvsim.backends import auto

    order: Ints = auto().topological_order(batch)
    if len(order) < batch.turns:
        left = np.setdiff1d(number, order)
        row = _on_cycle(batch, set(left.tolist()))
        name = "parent" if batch.parent[row] in left else "after" if batch.after[row] in left else "waits_for"
        _refuse(batch, origin, row, name, "waits for itself through a cycle of turns")
    return order


def _on_cycle(batch: Batch, left: set[int]) -> int:
    """A row that truly lies on a cycle, walking from any of the rows that could not be ordered."""
    row = min(left)
    seen: set[int] = set()
    while row not in seen:
        seen.add(row)
        needed = [int(batch.parent[row]), int(batch.after[row])]
        if batch.waits_for is not None:
            needed += batch.waits_for[row]
        row = next(other for other in needed if other in left)
    return row
