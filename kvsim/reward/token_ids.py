"""Rollouts as token ids with masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.logs.masks import Arrays, equal_prompts, masked_turns
from kvsim.reward.assembly import NO_OUTPUT, Turns
from kvsim.trajectory import Ints


def turns_of_masks(ids: Arrays, masks: Arrays, prompt_tokens: npt.ArrayLike | None = None) -> tuple[Turns, Any]:
    """The turns of rollouts by their masks, and a function that numbers them by their first prompts.

    ``prompt_tokens``: how many tokens precede the first given one, for each rollout (by default 0); then equal first
    prompts cannot be told.
    """
    counts, prompt, output, begin, length = masked_turns(ids, masks, empty=True)
    if prompt_tokens is not None:
        prompt = prompt + np.repeat(np.asarray(prompt_tokens, np.int64), counts)
    silent = int(np.count_nonzero(output == 0))

    def groups() -> Ints:
        return equal_prompts(ids, begin, length)

    turns = Turns(counts, prompt, output, assumptions={NO_OUTPUT: silent} if silent else {})
    return turns, groups if prompt_tokens is None else None
