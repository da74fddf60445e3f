"""A batch and an engine's arguments as the scheduler's kernels take them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kvsim.backends.engine_kernels import LRU, NO_CACHE, Contexts, GroupLaw, Settings, StepLaw

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.engine import Engine
    from kvsim.law import AttentionTable, Law
    from kvsim.trajectory import Batch


Columns = TypeVar("Columns", bound=Iterable[object])


def sealed(columns: Columns) -> Columns:
    """The same with its arrays read-only."""
    for column in columns:
        if isinstance(column, np.ndarray):
            column.flags.writeable = False
    return columns


def settings_of(engine: Engine, retention: int = LRU) -> Settings:
    """What the scheduler obeys. The watermark is vLLM's: a share of all blocks, rounded down."""
    return Settings(
        block_size=engine.block_size,
        num_gpu_blocks=engine.num_gpu_blocks,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        watermark_blocks=int(engine.watermark * engine.num_gpu_blocks),
        scheduler_reserve_full_isl=int(engine.scheduler_reserve_full_isl),
        enable_chunked_prefill=int(engine.enable_chunked_prefill),
        priority=int(engine.scheduling_policy == "priority"),
        retention=retention if engine.enable_prefix_caching else NO_CACHE,
        async_scheduling=int(engine.async_scheduling),
        windows=np.array(engine.windows, np.int64),
    )


def step_law(law: Law) -> StepLaw:
    """The law's tables as the kernels take them."""

    def group(table: AttentionTable) -> GroupLaw:
        return GroupLaw(table.pair, table.context, table.decode, table.mixed)

    full, windowed = group(law.full), group(law.windowed)
    return StepLaw(law.fraction_bits, law.step, law.sequences, law.window, law.tile_keys, full, windowed)


def contexts_of(batch: Batch, block_size: int) -> Contexts:
    """Block keys of all contexts: row by row those of its own blocks, then those of the named prefixes.

    Made once for a batch and kept with it; read-only.
    """
    return batch.once("contexts", block_size, lambda: sealed(_contexts_of(batch, block_size)))


def _contexts_of(batch: Batch, block_size: int) -> Contexts:
    root = batch.parent < 0
    output = np.maximum(batch.output_tokens, 1)
    own_from = batch.kept_tokens // block_size
    own = np.maximum((batch.prompt_tokens + output) // block_size - own_from, 0)
    first_key = np.cumsum(own) - own
    keys = int(own.sum())
    prefix_key = np.full(batch.turns, -1, np.int64)
    if batch.prefix is not None:
        longest = np.zeros(len(batch.prefix_names), np.int64)
        named = batch.prefix >= 0
        np.maximum.at(longest, batch.prefix[named], own_from[named])
        prefix_key[named] = (keys + np.cumsum(longest) - longest)[batch.prefix[named]]
        keys += int(longest.sum())
    return Contexts(
        prompt=batch.prompt_tokens,
        output=output,
        priority=np.zeros(batch.turns, np.int64) if batch.priority is None else batch.priority,
        above=batch.parent,
        own_from=np.where(root & (prefix_key < 0), 0, own_from),
        first_key=first_key,
        prefix_key=prefix_key,
        hittable=hittable_tokens(batch, block_size),
        continues=_continues(batch, own_from, block_size),
        keys=keys,
    )


def _continues(batch: Batch, own_from: Ints, block_size: int) -> Ints:
    """1 for the first row that keeps all full blocks of its parent's context, shape (rows,)."""
    full = (batch.prompt_tokens + np.maximum(batch.output_tokens, 1)) // block_size
    whole = np.flatnonzero((batch.parent >= 0) & (own_from >= full[batch.parent]))
    first = np.full(batch.turns, -1, np.int64)
    first[batch.parent[whole[::-1]]] = whole[::-1]  # of several values for a place the last one stays
    continues = np.zeros(batch.turns, np.int64)
    continues[first[first >= 0]] = 1
    return continues


def hittable_tokens(batch: Batch, block_size: int) -> Ints:
    """Tokens that each row would find in the cache if nothing had been evicted, shape (rows,).

    For layers that keep every token. What sliding windows leave behind depends on the order of the requests: there the
    engine itself looks for it (``note_hittable``).
    """
    shared = np.zeros(batch.turns, np.int64) if batch.shared_tokens is None else batch.shared_tokens
    if batch.turns:
        computed = (batch.prompt_tokens + np.maximum(batch.output_tokens, 1) - 1)[batch.parent]
        shared = np.where(batch.parent >= 0, np.minimum(batch.kept_tokens, computed), shared)
    found: Ints = np.minimum(shared, batch.prompt_tokens - 1) // block_size * block_size
    return found
