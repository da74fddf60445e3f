"""Rollouts as token ids with masks, as trainers hold them, to turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.trajectory import Batch, Ints

_BYTES = (np.dtype(np.int8), np.dtype(np.bool_))

Arrays = npt.NDArray[Any] | Sequence[npt.ArrayLike]
"""One array a rollout, or a 2-D array of them."""


class MaskedTurns(NamedTuple):
    """Turns by their masks, in rollout order.

    ``counts`` (rollouts,) turns of each; ``prompt`` and ``output`` (turns,) tokens; the first prompt of a rollout is
    ``ids[begin : begin + length]`` (rollouts,).
    """

    counts: Ints
    prompt: Ints
    output: Ints
    begin: Ints
    length: Ints


def from_token_masks(ids: Arrays, masks: Arrays, *, pause_ns: npt.ArrayLike | None = None) -> Batch:
    """A batch from rollouts, one trajectory each: arrays of token ids and of masks, each 2-D or a list of 1-D arrays.

    A mask is 1 where the model wrote the token, 0 where it read it (prompt, tool response) and -1 where it is padding,
    at either end of a rollout. Masks are integers or bool.
    Every stretch of 1s is a turn; what is read after the last stretch belongs to none. Rollouts with equal first
    prompts (a group of one question) share them as a named prefix. ``pause_ns``: one pause a turn, in order, 0 by
    default. Rollouts without a turn are an error.
    """
    turns = masked_turns(ids, masks, empty=False)
    if (turns.counts == 0).any():
        raise InputError(
            f"rollout {int(np.flatnonzero(turns.counts == 0)[0])} has no token written by the model",
            field="masks",
            remedy="Leave such rollouts out; masks are 1 where the model wrote",
        )
    rollout = np.repeat(np.arange(len(turns.counts)), turns.counts)
    prompt, output = turns.prompt, turns.output
    if (prompt == 0).any():
        raise InputError(
            f"rollout {int(rollout[np.flatnonzero(prompt == 0)[0]])} has no prompt",
            field="masks",
            remedy="Give prompt and response tokens together, the prompt with mask 0",
        )
    root = np.diff(rollout, prepend=-1) != 0
    kept = np.zeros_like(prompt)
    kept[1:] = np.where(root[1:], 0, prompt[:-1] + output[:-1])
    group = equal_prompts(ids, turns.begin, turns.length)
    members = np.bincount(group, minlength=len(group))
    names, prefix = np.unique(np.where(members[group] > 1, group, -1), return_inverse=True)
    prefix = prefix - int(len(names) > 0 and names[0] == -1)
    of_turn = np.where(root, prefix[rollout], -1)
    return Batch.from_columns(
        parent=np.where(root, -1, np.arange(len(rollout)) - 1),
        kept_tokens=np.where(root & (of_turn >= 0), prompt, kept),
        prompt_tokens=prompt,
        output_tokens=output,
        pause_ns=np.zeros(len(rollout), np.int64) if pause_ns is None else pause_ns,
        arrival_ns=np.zeros(len(rollout), np.int64),
        trajectory=rollout,
        prefix=of_turn if (of_turn >= 0).any() else None,
    )


def masked_turns(ids: Arrays, masks: Arrays, *, empty: bool) -> MaskedTurns:
    """The turns of rollouts by their masks, as in :func:`from_token_masks`.

    ``empty``: a rollout in which the model wrote nothing has one turn, which reads all and writes nothing.
    """
    from kvsim import _ingest

    if len(ids) != len(masks):
        raise InputError(
            f"{len(ids)} rollouts of ids for {len(masks)} of masks", field="masks", remedy="Give each rollout both"
        )
    if (
        isinstance(ids, np.ndarray)
        and isinstance(masks, np.ndarray)
        and ids.shape == masks.shape
        and masks.ndim == 2
        and masks.dtype in _BYTES
    ):
        together = np.ascontiguousarray(masks)
        *turns, faulty = _ingest.mask_turns(ids, together, empty)
        if faulty >= 0:
            _refuse(faulty, together[faulty])
        return MaskedTurns(*turns)
    rows = list(masks)
    *turns, faulty = _ingest.mask_turns(ids, rows, empty)
    if faulty >= 0:  # of another type, or wrong
        rows = [np.ascontiguousarray(row) for row in rows]
        _require_shapes(ids, rows)
        given = [row if row.dtype in _BYTES else _narrowed(row) for row in rows]
        *turns, faulty = _ingest.mask_turns(given, given, empty)
        if faulty >= 0:
            _refuse(faulty, rows[faulty])
    return MaskedTurns(*turns)


def equal_prompts(ids: Arrays, begin: Ints, length: Ints) -> Ints:
    """One number (that of a rollout) for all rollouts of equal first prompts, shape (rollouts,)."""
    from kvsim import _ingest

    return _ingest.prompt_groups([np.ascontiguousarray(row) for row in ids], begin, length)


def _require_shapes(ids: Arrays, masks: Sequence[npt.NDArray[Any]]) -> None:
    for number, (row, mask) in enumerate(zip(ids, masks, strict=True)):
        shape = row.shape if isinstance(row, np.ndarray) else np.asarray(row).shape
        if shape != mask.shape or mask.ndim != 1:
            raise InputError(
                f"rollout {number}: shapes {shape} and {mask.shape}", field="masks", remedy="One mask value a token"
            )


def _narrowed(mask: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """An integer mask in bytes; what is none becomes a mask that is refused."""
    fits = mask.dtype.kind in "iu" and mask.size and -1 <= int(mask.min()) <= int(mask.max()) <= 1
    return mask.astype(np.int8) if fits or not mask.size else np.full(1, 2, np.int8)


def _refuse(number: int, mask: npt.NDArray[Any]) -> None:
    """Say why a mask is none."""
    problem = "padding between tokens"
    if mask.dtype.kind not in "iub":
        problem = f"values of type {mask.dtype}"
    elif (other := mask[(mask < -1) | (mask > 1)]).size:
        problem = f"value {other[0]}"
    raise InputError(
        f"rollout {number}: {problem}",
        field="masks",
        remedy="Masks are integers: 1 written by the model, 0 read by it, -1 padding at either end",
    )
