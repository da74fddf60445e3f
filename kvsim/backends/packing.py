"""A batch's columns by the names that kernels have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.trajectory import Batch


def kernel_columns(batch: Batch) -> dict[str, Ints | None]:
    """The fields of :class:`kvsim.backends.kernels.Turns`; None for what the batch does not have."""
    waits = batch.waits_for
    return {
        "parent": batch.parent,
        "after": batch.after,
        "kept": batch.kept_tokens,
        "prompt": batch.prompt_tokens,
        "output": batch.output_tokens,
        "pause_ns": batch.pause_ns,
        "arrival_ns": batch.arrival_ns,
        "trajectory": batch.trajectory,
        "order": batch.order,
        "waits_offsets": None if waits is None else waits.offsets,
        "waits_rows": None if waits is None else waits.values,
        "shared": batch.shared_tokens,
        "logged_cached": batch.cached_tokens,
    }
