"""Rollouts as lists of turns, each (prompt tokens, output tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.reward.assembly import NO_OUTPUT, Turns

_REMEDY = "A turn is (prompt tokens, output tokens), the whole prompt as it was sent"


def turns_of_counts(rollouts: Sequence[Sequence[Sequence[int]]], prompt_tokens: npt.ArrayLike | None = None) -> Turns:
    """The turns of rollouts given as lists of (prompt tokens, output tokens) pairs.

    A rollout without a turn is one that wrote nothing after ``prompt_tokens`` of that rollout (1 by default).
    """
    counts = np.array([len(turns) for turns in rollouts], np.int64)
    pairs: list[Any] = [turn for turns in rollouts for turn in turns]
    try:
        table = np.array(pairs).reshape(len(pairs), 2)
    except (TypeError, ValueError):
        raise InputError("a turn is no pair of numbers", field="rollouts", remedy=_REMEDY) from None
    if len(pairs) and table.dtype.kind not in "iu":
        raise InputError(f"turns hold values of type {table.dtype}", field="rollouts", remedy=_REMEDY)
    prompt, output = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    if (empty := np.flatnonzero(counts == 0)).size:
        starts = (np.cumsum(counts) - counts)[empty]
        given = 1 if prompt_tokens is None else np.asarray(prompt_tokens, np.int64)[empty]
        prompt, output = np.insert(prompt, starts, given), np.insert(output, starts, 0)
        counts = np.maximum(counts, 1)
    return Turns(counts, prompt, output, assumptions={NO_OUTPUT: empty.size} if empty.size else {})
