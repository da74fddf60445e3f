"""Rollouts as token ids with masks, as trainers hold them, to turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.trajectory import Batch


def from_token_masks(
    ids: npt.NDArray[Any] | Sequence[npt.ArrayLike],
    masks: npt.NDArray[Any] | Sequence[npt.ArrayLike],
    *,
    pause_ns: npt.ArrayLike | None = None,
) -> Batch:
    """A batch from rollouts, one trajectory each: arrays of token ids and of masks, each 2-D or a list of 1-D arrays.

    A mask is 1 where the model wrote the token, 0 where it read it (prompt, tool response) and -1 where it is padding,
    at either end of a rollout. Masks are integers or bool.
    Every stretch of 1s is a turn; what is read after the last stretch belongs to none. Rollouts with equal first
    prompts (a group of one question) share them as a named prefix. ``pause_ns``: one pause a turn, in order, 0 by
    default. Rollouts without a turn are an error.
    """
    from kvsim import _ingest

    if len(ids) != len(masks):
        raise InputError(
            f"{len(ids)} rollouts of ids for {len(masks)} of masks", field="masks", remedy="Give each rollout both"
        )
    tokens = [np.ascontiguousarray(row) for row in ids]
    written = [_mask(number, np.asarray(row)) for number, row in enumerate(masks)]
    for number, (row, mask) in enumerate(zip(tokens, written, strict=True)):
        if row.shape != mask.shape or row.ndim != 1:
            raise InputError(
                f"rollout {number}: shapes {row.shape} and {mask.shape}", field="masks", remedy="One mask value a token"
            )
    rollout, prompt, output, kept, group = _ingest.from_masks(tokens, written)
    if (group < 0).any():
        raise InputError(
            f"rollout {int(np.flatnonzero(group < 0)[0])} has no token written by the model",
            field="masks",
            remedy="Leave such rollouts out; masks are 1 where the model wrote",
        )
    if (prompt == 0).any():
        raise InputError(
            f"rollout {int(rollout[np.flatnonzero(prompt == 0)[0]])} has no prompt",
            field="masks",
            remedy="Give prompt and response tokens together, the prompt with mask 0",
        )
    root = np.diff(rollout, prepend=-1) != 0
    parent = np.where(root, -1, np.arange(len(rollout)) - 1)
    members = np.bincount(group, minlength=len(group))
    names, prefix = np.unique(np.where(members[group] > 1, group, -1), return_inverse=True)
    prefix = prefix - int(len(names) > 0 and names[0] == -1)
    of_turn = np.where(root, prefix[rollout], -1)
    return Batch.from_columns(
        parent=parent,
        kept_tokens=np.where(root & (of_turn >= 0), prompt, kept),
        prompt_tokens=prompt,
        output_tokens=output,
        pause_ns=np.zeros(len(rollout), np.int64) if pause_ns is None else pause_ns,
        arrival_ns=np.zeros(len(rollout), np.int64),
        trajectory=rollout,
        prefix=of_turn if (of_turn >= 0).any() else None,
    )


def _mask(number: int, given: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """One rollout's mask, checked."""
    problem = ""
    if given.size and given.dtype.kind not in "iub":
        problem = f"values of type {given.dtype}"
    elif given.size and not -1 <= (low := int(given.min())) <= (high := int(given.max())) <= 1:
        problem = f"value {low if low < -1 else high}"
    mask = np.ascontiguousarray(given, np.int8) if not problem else np.zeros(0, np.int8)
    if mask.ndim == 1 and mask.size and mask.min() < 0:
        real = np.flatnonzero(mask >= 0)
        if real.size and real[-1] - real[0] >= real.size:
            problem = "padding between tokens"
    if problem:
        raise InputError(
            f"rollout {number}: {problem}",
            field="masks",
            remedy="Masks are integers: 1 written by the model, 0 read by it, -1 padding at either end",
        )
    return mask
