"""The law seen from one turn under a declared load: a few integers that all backends share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvsim.backends import kernels
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.engine import Engine
    from kvsim.law import AttentionTable, Law
    from kvsim.load import Load

_SURVIVAL = {"lru": kernels.LRU, "never": kernels.NEVER, "always": kernels.ALWAYS, "logged": kernels.LOGGED}


def rates(law: Law, engine: Engine, load: Load) -> tuple[kernels.Rates, Ints]:
    """The rates of a load, and the table of step times by the turn's own tokens (those of the others added).

    Raises :class:`InputError` where the engine cannot run so many sequences in one step.
    """
    everyone, others = load.concurrent, load.concurrent - 1
    chunk = engine.max_num_batched_tokens - others
    if everyone > engine.max_num_seqs or chunk < 1:
        raise InputError(
            f"{everyone} concurrent sequences exceed the engine's {engine.max_num_seqs} sequences and "
            f"{engine.max_num_batched_tokens} tokens a step",
            field="concurrent",
            remedy="Lower it, or raise max_num_seqs and max_num_batched_tokens",
        )
    if engine.long_prefill_token_threshold and others:  # vLLM ignores it while one request is alone
        chunk = min(chunk, engine.long_prefill_token_threshold)
    usable_blocks = engine.capacity_blocks - 1
    if load.mean_context is not None and others * -(-load.mean_context // engine.block_size) >= usable_blocks:
        raise InputError(
            f"{others} other sequences of {load.mean_context} tokens fill all {usable_blocks} KV blocks",
            field="mean_context",
            remedy="Lower concurrent or mean_context",
        )

    def group(table: AttentionTable) -> kernels.GroupRates:
        decode = int(table.decode[everyone]) if len(table.decode) else 0
        beside = int(table.mixed[others]) * others if others else 0
        return kernels.GroupRates(pair=table.pair, context=table.context, decode=decode, beside=beside)

    churn_ns = max(1, round(1e9 / load.churn_blocks_per_s)) if load.churn_blocks_per_s >= 1e-6 else 0
    survival = _SURVIVAL.get(load.kv, kernels.TTL) if engine.enable_prefix_caching else kernels.NO_CACHE
    if survival == kernels.LRU and churn_ns == 0:
        survival = kernels.NEVER
    size = engine.block_size
    full, windowed = group(law.full), group(law.windowed)
    sequences = int(law.sequences[everyone])
    beside_chunk = sequences + law.tile_keys * (full.beside + windowed.beside)
    made = kernels.Rates(
        fraction_bits=law.fraction_bits,
        chunk=chunk,
        chunk_step=int(law.step[chunk + others]) + beside_chunk,
        prefill_step=beside_chunk,
        decode_step=int(law.step[everyone]) + sequences,
        full=full,
        windowed=windowed,
        window=law.window,
        others=others,
        mean_context=-1 if load.mean_context is None else load.mean_context,
        block_size=size,
        block_shift=size.bit_length() - 1 if size & (size - 1) == 0 else -1,
        usable_blocks=usable_blocks,
        max_model_len=engine.max_model_len,
        survival=survival,
        ttl_ns=load.ttl_ns,
        churn_ns=churn_ns,
    )
    return made, law.step[others : others + chunk + 1]
