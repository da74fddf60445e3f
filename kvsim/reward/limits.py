"""What no engine could hold is priced as the longest context it can, so that a cost is finite for every rollout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvsim._door import sealed
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch


def most_tokens(pricing: Pricing) -> int:
    """The most prompt and output tokens that a turn can have beside the load, by length and by KV blocks."""
    engine, load = pricing.engine, pricing.load
    usable, others, size = engine.capacity_blocks - 1, load.concurrent - 1, engine.block_size
    blocks = usable // load.concurrent  # the others are like the turn, unless their context is declared
    if load.mean_context is not None:
        blocks = usable - others * -(-load.mean_context // size)
    tokens = min(engine.max_model_len, blocks * size)
    if tokens < 2:
        raise InputError(
            f"{load.concurrent} concurrent sequences leave {blocks} of {usable} KV blocks for a turn",
            field="concurrent",
            remedy="Lower concurrent or mean_context",
        )
    return tokens


def within(batch: Batch, tokens: int) -> tuple[Batch, int]:
    """The batch with every turn cut to that many tokens, the prompt first, and how many turns were cut."""
    length = batch.prompt_tokens + np.maximum(batch.output_tokens, 1)
    if not batch.turns or int(length.max()) <= tokens:
        return batch, 0
    output = np.minimum(batch.output_tokens, tokens - 1)
    prompt = np.minimum(batch.prompt_tokens, tokens - np.maximum(output, 1))
    kept = np.minimum(batch.kept_tokens, prompt)
    child = np.flatnonzero(batch.parent >= 0)
    context = prompt + output
    kept[child] = np.minimum(kept[child], context[batch.parent[child]])
    columns = {"prompt_tokens": prompt, "output_tokens": output, "kept_tokens": kept}
    return sealed(replace(batch, **columns)), int(np.count_nonzero(length > tokens))
