"""A turn's time in parts that add up to it, in whole nanoseconds: the same names for an estimate and a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.backends import get, kernels
from kvsim.backends.interface import empty_columns
from kvsim.backends.rates import rates
from kvsim.estimation import Estimate
from kvsim.load import Load
from kvsim.trajectory import Batch

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.simulated import Simulation

__all__ = ["PARTS", "Decoding", "Parts", "parts_of"]

PARTS = ("queue_ns", "fresh_ns", "recompute_ns", "decode_base_ns", "decode_context_ns", "decode_beside_ns")
"""The parts of a turn's time from its release to its last token; they add up to it."""

UNLIMITED = 1 << 40
"""More tokens or blocks than any turn has."""


class Parts(NamedTuple):
    """One value a turn, rows as in the batch; all 0 where the turn was not priced or served."""

    ok: npt.NDArray[np.bool_]
    """Whether it was."""
    queue_ns: Ints
    fresh_ns: Ints
    recompute_ns: Ints
    decode_base_ns: Ints
    decode_context_ns: Ints
    decode_beside_ns: Ints
    fresh_from: Ints
    """How many of the prompt's first tokens the fresh prefill left out: cached, or cached once and evicted."""
    fresh_alone_ns: Ints
    """Of ``fresh_ns`` what the prefill takes with nobody else in its steps."""
    idle_block_ns: npt.NDArray[np.float64]
    """Blocks of its parent's context that stayed in the cache through the pause, x nanoseconds."""


class Decoding(NamedTuple):
    """What decode steps cost under a load, in units of 2^-fraction_bits ns, seen from one sequence."""

    fraction_bits: int
    step: int  # a step, whatever the sequence's own context
    token: int  # for each token of its context, in layers of full attention
    windowed_token: int  # for each one in the window, in layers with sliding windows
    window: int

    @classmethod
    def under(cls, made: kernels.Rates) -> Decoding:
        """Under the load of these rates."""
        alike = 1 + (made.others if made.mean_context < 0 else 0)  # others whose contexts are taken to grow alike
        step = made.decode_step
        if made.mean_context >= 0:
            step += made.full.decode * made.others * made.mean_context
            step += made.windowed.decode * made.others * min(made.mean_context, made.window)
        return cls(made.fraction_bits, step, made.full.decode * alike, made.windowed.decode * alike, made.window)

    def to_ns(self, units: Ints) -> Ints:
        """Rounded to whole nanoseconds, half up."""
        return (units + ((1 << self.fraction_bits) >> 1)) >> self.fraction_bits


def parts_of(result: Estimate | Simulation) -> Parts:
    """The parts of every turn of a result."""
    return _of_estimate(result) if isinstance(result, Estimate) else _of_simulation(result)


def decoding_of(result: Estimate | Simulation) -> Decoding:
    """What decode steps cost a turn by itself: under the load of an estimate, alone in a simulation."""
    load = result.pricing.load if isinstance(result, Estimate) else Load()
    return Decoding.under(rates(result.pricing.law, result.pricing.engine, load)[0])


def decode_steps(batch: Batch) -> Ints:
    """The steps after the first token, shape (rows,)."""
    return np.maximum(batch.output_tokens, 1) - 1


def _of_estimate(result: Estimate) -> Parts:
    columns, batch = result.columns, result.batch
    ok = columns.status == kernels.OK
    none = np.zeros(batch.turns, np.int64)
    decoding = decoding_of(result)
    base_ns = np.where(ok, np.minimum(decoding.to_ns(decode_steps(batch) * decoding.step), columns.decode_ns), 0)
    return Parts(
        ok=ok,
        queue_ns=none,
        fresh_ns=columns.fresh_ns,
        recompute_ns=columns.recompute_ns,
        decode_base_ns=base_ns,
        decode_context_ns=columns.decode_ns - base_ns,
        decode_beside_ns=none,
        fresh_from=columns.cached_tokens + columns.recomputed_tokens,
        fresh_alone_ns=columns.fresh_ns,
        idle_block_ns=_idle_block_ns(result),
    )


def _idle_block_ns(result: Estimate) -> npt.NDArray[np.float64]:
    """What a turn held beyond its own steps."""
    columns, batch, size = result.columns, result.batch, result.pricing.engine.block_size
    prompt_blocks = -(-batch.prompt_tokens // size)
    final_blocks = -(-(batch.prompt_tokens + decode_steps(batch)) // size)
    in_steps = prompt_blocks * (columns.fresh_ns + columns.recompute_ns).astype(float)
    in_steps += (prompt_blocks + final_blocks) * 0.5 * columns.decode_ns
    idle = columns.held_block_ns - in_steps
    return np.where(idle > 1e-12 * in_steps, idle, 0.0)  # else it is a rounding error


def _of_simulation(result: Simulation) -> Parts:
    served, batch, ok = result.served, result.batch, result.ok
    fresh_from = np.where(ok, np.maximum(served.cached_tokens, served.hittable_tokens), 0)
    fresh_alone_ns, decode_alone_ns = _alone(result, fresh_from)
    decoding = decoding_of(result)
    fresh_ns = served.first_token_ns - served.scheduled_ns - served.recompute_ns
    decode_ns = served.finish_ns - served.first_token_ns
    # Beside others a token of context can take less than alone, where batches read it better: nothing goes below 0.
    base_ns = np.minimum(decoding.to_ns(decode_steps(batch) * decoding.step), decode_ns)
    context_ns = np.minimum(decode_alone_ns, decode_ns) - base_ns

    def known(column: Ints) -> Ints:
        return np.where(ok, column, 0)

    return Parts(
        ok=ok,
        queue_ns=known(served.scheduled_ns - served.release_ns),
        fresh_ns=known(fresh_ns),
        recompute_ns=known(served.recompute_ns),
        decode_base_ns=known(base_ns),
        decode_context_ns=known(context_ns),
        decode_beside_ns=known(decode_ns - base_ns - context_ns),
        fresh_from=fresh_from,
        fresh_alone_ns=known(np.minimum(fresh_alone_ns, fresh_ns)),
        idle_block_ns=result.idle_block_ns.astype(float),
    )


def _alone(result: Simulation, cached_tokens: Ints) -> tuple[Ints, Ints]:
    """What prefill and decoding of every turn take with nobody else in the steps, if so many tokens are cached."""
    batch, pricing, backend = result.batch, result.pricing, get("auto")
    made, step = rates(pricing.law, pricing.engine, Load())
    made = made._replace(survival=kernels.LOGGED, usable_blocks=UNLIMITED, max_model_len=UNLIMITED)
    none, zero = np.full(batch.turns, -1, np.int64), np.zeros(batch.turns, np.int64)
    by_itself = Batch.from_columns(
        parent=none,
        kept_tokens=zero,
        prompt_tokens=batch.prompt_tokens,
        output_tokens=batch.output_tokens,
        pause_ns=zero,
        arrival_ns=zero,
        trajectory=np.arange(batch.turns),
        cached_tokens=cached_tokens,
    )
    columns = empty_columns(batch.turns)
    backend.estimate(backend.prepare(made, step), backend.pack(by_itself), columns)
    return columns.fresh_ns, columns.decode_ns
