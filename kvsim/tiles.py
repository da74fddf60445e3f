"""Attention of one step as FlashAttention 2 runs it: thread blocks, each with one tile of query rows, on the GPU's
multiprocessors.

vLLM launches one kernel over all sequences of a step. Where one of them has more than one new token, every head of
every sequence gets as many blocks as the longest chunk needs, each for 64 query rows, which walk over their keys in
rounds (of 128 keys for usual heads): a decoding sequence fills one row of one block and leaves its other blocks empty.
Blocks start in order, head by head, each when a multiprocessor is free.

So a step takes as long as its work spread over the multiprocessors, plus what the last blocks have left over then, and
no less than its longest block. Neither that maximum nor whole tiles are affine in context: the engine's tables
(``law.py``) have its tangent, :meth:`kvsim.terms.AttentionRates.mixed_s`.

Source: FlashAttention 2, csrc/flash_attn/src/flash_fwd_launch_template.h, ``run_mha_fwd_splitkv_dispatch``, as
vLLM's fork calls it for a paged cache, with one split of the keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .terms import Array

Rows = npt.NDArray[np.intp]

QUERY_ROWS = 64
"""Query rows of a block."""

EVEN = 8
"""How sharply blocks of equal length run in waves: the power of their evenness by which whole waves count. (Against
list scheduling, block by block: 1 to 2 % off in the median over the steps that were measured.)"""


def keys_of_round(dim: Array) -> Array:
    """Keys that a block takes at a time, by the dimensions of a head."""
    return np.where(dim <= 64, 256.0, np.where(dim <= 128, 128.0, 64.0))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Times of thread blocks: seconds of a block for each round of ``keys`` keys, beside its start and end, and of an
    empty one; ``slots`` run at once. ``cache_bytes`` is the L2 cache and ``memory`` the bytes/s that all of them read
    together."""

    keys: Array
    round_s: Array
    start_s: float
    empty_s: float
    slots: int
    memory: float
    cache_bytes: float


@dataclass(frozen=True, slots=True)
class Chunks:
    """Equal chunks of a step: so many of ``new`` tokens each over ``cached`` ones, per row."""

    number: Array
    new: Array
    cached: Array

    def of(self, rows: Rows) -> Chunks:
        """Those of some rows."""
        return Chunks(self.number[rows], self.new[rows], self.cached[rows])


@dataclass(frozen=True, slots=True)
class Decoding:
    """Sequences that decode beside them, each over ``context`` tokens, per row."""

    sequences: Array
    context: Array

    def of(self, rows: Rows) -> Decoding:
        """Those of some rows."""
        return Decoding(self.sequences[rows], self.context[rows])


def attention_s(
    blocks: Blocks,
    chunks: Chunks,
    decoding: Decoding,
    heads: Array,
    kv_heads: Array,
    key_bytes: Array,
) -> Array:
    """Seconds of attention of steps that hold chunks (at least one) and perhaps decode beside them.

    ``key_bytes`` are those of one key with its value in one KV head.
    """
    tiles, rounds, squares, most = _rounds(chunks.new, chunks.cached, blocks.keys)
    first = chunks.number * (blocks.start_s * tiles + blocks.round_s * rounds)
    second = chunks.number * (
        tiles * blocks.start_s**2 + 2 * blocks.start_s * blocks.round_s * rounds + blocks.round_s**2 * squares
    )
    longest = blocks.start_s + blocks.round_s * most
    sequences = decoding.sequences
    one = blocks.start_s + np.ceil((decoding.context + 1) / blocks.keys) * np.maximum(
        blocks.round_s, _reading_s(blocks, decoding, heads, kv_heads, key_bytes)
    )
    first = first + sequences * (one + (tiles - 1) * blocks.empty_s)
    second = second + sequences * one**2
    longest = np.where(sequences > 0, np.maximum(longest, one), longest)
    at_once = heads * (chunks.number * tiles + sequences) <= blocks.slots
    return np.asarray(np.where(at_once, longest, _makespan_s(heads * first, second / first, longest, blocks.slots)))


def _makespan_s(work: Array, typical: Array, longest: Array, slots: int) -> Array:
    """Seconds until ``slots`` have done ``work`` in blocks that start in order: ``typical`` is the length of the block
    that a slot is found at. Blocks of one length run in whole waves; others are on average half done when the last of
    the longest starts."""
    waves = np.ceil(work / (typical * slots) * (1 - 1e-9)) * typical
    staggered = work / slots + longest - typical / 2
    evenness = (typical / longest) ** EVEN
    return np.maximum(longest, evenness * waves + (1 - evenness) * staggered)


def _rounds(new: Array, cached: Array, keys: Array) -> tuple[Array, Array, Array, Array]:
    """Of a chunk's tiles: their number, the sum of their rounds, that of the squares, and the longest's rounds."""
    tiles, most = np.ceil(new / QUERY_ROWS), np.ceil((cached + new) / keys)
    first, second = np.zeros_like(tiles), np.zeros_like(tiles)
    for tile in range(1, int(tiles.max(initial=0)) + 1):
        rounds = np.where(tile <= tiles, np.minimum(most, np.ceil((cached + tile * QUERY_ROWS) / keys)), 0.0)
        first += rounds
        second += rounds**2
    return tiles, first, second, most


def _reading_s(blocks: Blocks, decoding: Decoding, heads: Array, kv_heads: Array, key_bytes: Array) -> Array:
    """Seconds of a round in which all blocks at once read from memory.

    Heads that share keys read them together where their blocks run side by side. Where one head's sequences alone fill
    the multiprocessors, each head reads them anew, unless what was read since is still in the cache.
    """
    group = heads / kv_heads
    apart = np.minimum(1.0, decoding.sequences / blocks.slots)
    since = np.minimum(decoding.sequences, blocks.slots) * decoding.context * key_bytes
    lost = np.clip(2 * (since / blocks.cache_bytes - 1), 0.0, 1.0)
    passes = 1 + (group - 1) * apart * lost
    at_once = np.clip(heads * decoding.sequences, 1, blocks.slots)
    return np.asarray(blocks.keys * key_bytes * passes / group * at_once / blocks.memory)
