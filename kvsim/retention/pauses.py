"""What a batch and a law say about pauses: who comes back, when, and what its context costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim._door import MAX_TOKENS
from kvsim.backends import get
from kvsim.backends.interface import empty_columns
from kvsim.trajectory import Batch

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.backends.kernels import PriceColumns
    from kvsim.pricing import Pricing


def extended(batch: Batch) -> npt.NDArray[np.bool_]:
    """Whether some turn extends the row's context, shape (rows,)."""
    found = np.zeros(batch.turns, bool)
    found[batch.parent[batch.parent >= 0]] = True
    return found


def successor(batch: Batch) -> Ints:
    """The first row that extends the row's context, -1 none, shape (rows,)."""
    first = np.full(batch.turns, -1, np.int64)
    rows = np.flatnonzero(batch.parent >= 0)[::-1]
    first[batch.parent[rows]] = rows  # of several values for a place the last one stays
    return first


def gap_ns(batch: Batch, pricing: Pricing) -> Ints:
    """From the parent's finish to the row's release, 0 for roots, shape (rows,).

    That is the row's pause, and where it waits for other turns too (a sub-agent's) the time these take alone on the
    engine.
    """
    columns = _alone(batch, pricing)
    finish_ns = columns.release_ns + columns.fresh_ns + columns.recompute_ns + columns.decode_ns
    gaps: Ints = np.where(batch.parent >= 0, np.maximum(columns.release_ns - finish_ns[batch.parent], 0), 0)
    return gaps


def tools(batch: Batch) -> Ints:
    """The tool that the pause behind each row waits for: that of the first turn that extends it, -1 unnamed or none."""
    if batch.tool is None:
        return np.full(batch.turns, -1, np.int64)
    following = successor(batch)
    named: Ints = np.where(following >= 0, batch.tool[following], -1)
    return named


def expected_gap_ns(batch: Batch, pricing: Pricing) -> Ints:
    """The mean gap behind all rows whose pause is for the same tool; behind unnamed ones that of all, shape (rows,)."""
    gaps = gap_ns(batch, pricing)
    children = np.flatnonzero(batch.parent >= 0)
    overall = gaps[children].mean() if children.size else 0.0
    if batch.tool is None:
        return np.full(batch.turns, round(overall), np.int64)
    named = children[batch.tool[children] >= 0]
    kinds = int(batch.tool.max(initial=-1)) + 1
    counts = np.bincount(batch.tool[named], minlength=kinds)
    sums = np.bincount(batch.tool[named], gaps[named], minlength=kinds)
    means = np.append(sums / np.maximum(counts, 1), overall)  # the last for -1
    expected: Ints = np.rint(means[tools(batch)]).astype(np.int64)
    return expected


def context_tokens(batch: Batch) -> Ints:
    """Tokens that the row leaves in the cache: its last one is never computed, shape (rows,)."""
    return batch.prompt_tokens + np.maximum(batch.output_tokens, 1) - 1


def prefill_ns(tokens: Ints, pricing: Pricing) -> Ints:
    """Time of computing contexts of so many tokens alone on the engine; 0 for what it cannot hold."""
    rows = len(tokens)
    none = np.full(rows, -1, np.int64)
    zero = np.zeros(rows, np.int64)
    batch = Batch.from_columns(
        parent=none,
        trajectory=np.arange(rows),
        kept_tokens=zero,
        prompt_tokens=np.minimum(tokens, MAX_TOKENS),
        output_tokens=np.ones(rows, np.int64),
        pause_ns=zero,
        arrival_ns=zero,
    )
    return _alone(batch, pricing).fresh_ns


def _alone(batch: Batch, pricing: Pricing) -> PriceColumns:
    """Every turn's price on an engine that serves nothing else."""
    backend = get("auto")
    columns = empty_columns(batch.turns)
    backend.estimate(pricing.handle(backend), batch.packed(backend), columns)
    return columns
