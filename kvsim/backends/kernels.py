"""The arithmetic of pricing, as readable text: plain Python over arrays.

Loaded as it stands it is the reference. :mod:`kvsim.backends.numba_backend` loads the same file a second time with
``jit`` bound to Numba's. ``csrc/*.hpp`` are the fast text of the same functions, name by
name: same integers, same order of operations, same bits. All jitted code stands in this one file, because Numba's
cache does not notice when a helper in another file changes.

Times called ``time`` are fixed-point (2^-fraction_bits ns); names ending in ``_ns`` are whole nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., object])

if TYPE_CHECKING or "jit" not in globals():

    def jit(function: F) -> F:
        """Leaves the function as it is: the reference is uncompiled Python."""
        return function


class GroupRates(NamedTuple):
    """One attention group: all layers with full attention, or all with a sliding window."""

    pair: int  # per (query, key) pair of a prefill chunk
    context: int  # per context token that a prefill chunk reads
    decode: int  # per context token of a sequence decoding among all of the load
    beside: int  # per context token of the others that decode beside a prefill chunk


class Rates(NamedTuple):
    """The law seen from one turn under a declared load; made by :func:`kvsim.backends.rates.rates`."""

    fraction_bits: int
    chunk: int  # most prompt tokens of the turn in one step
    chunk_step: int  # a step that prefills a whole chunk, attention apart
    prefill_step: int  # to add to step[tokens] for the step of the last chunk, attention apart
    decode_step: int  # a step in which all of the load decode, attention apart
    full: GroupRates
    windowed: GroupRates
    window: int  # tokens that a query of the windowed group sees; 0: there is no such group
    others: int  # sequences that share the turn's steps
    mean_context: int  # context of each of them; -1: the same as the turn's
    block_size: int
    block_shift: int  # log2(block_size), or -1 where it is no power of two
    usable_blocks: int
    max_model_len: int
    survival: int  # how KV survives a pause
    ttl_ns: int
    churn_ns: int  # LRU: the other traffic takes one block in this time


NEVER, ALWAYS, TTL, LRU, LOGGED, NO_CACHE = range(6)
OK, OVER_MAX, OVER_CAPACITY = range(3)

#: The columns of the per-trajectory totals.
TOTALS = (
    "first_release_ns",
    "last_finish_ns",
    "fresh_ns",
    "recompute_ns",
    "decode_ns",
    "cached_tokens",
    "recomputed_tokens",
    "unpriced_turns",
)


@jit
def to_ns(rates: Rates, time: int) -> int:
    """Rounds a fixed-point time to whole nanoseconds, half up."""
    return (time + ((1 << rates.fraction_bits) >> 1)) >> rates.fraction_bits


@jit
def sum_capped(start: int, stride: int, count: int, cap: int) -> int:
    """Sum over k = 1..count of min(start + k * stride, cap), for start >= 0 and stride >= 1."""
    below: int = 0 if start >= cap else min((cap - start) // stride, count)
    return below * start + stride * (below * (below + 1) // 2) + (count - below) * cap


@jit
def full_blocks(rates: Rates, tokens: int) -> int:
    """Whole blocks in so many tokens."""
    return tokens >> rates.block_shift if rates.block_shift >= 0 else tokens // rates.block_size


@jit
def blocks_for(rates: Rates, tokens: int) -> int:
    """Blocks needed to hold so many tokens."""
    return full_blocks(rates, tokens + rates.block_size - 1)


@jit
def prefill_time(rates: Rates, step: Ints, cached: int, count: int) -> int:
    """Time of prefilling ``count`` tokens after ``cached`` ones, in chunks, the others decoding beside it.

    ``step`` is the law's table of a step's time by tokens, from where the others' tokens are counted already.
    """
    prompt = cached + count
    whole = 0
    last = count
    if count > rates.chunk:
        whole = (count - 1) // rates.chunk
        last = count - whole * rates.chunk
    time: int = step[last] + rates.prefill_step + whole * rates.chunk_step
    time += rates.full.pair * (count * cached + count * (count + 1) // 2)
    time += rates.full.context * (whole * cached + rates.chunk * (whole * (whole + 1) // 2) + prompt)
    beside = rates.mean_context if rates.mean_context >= 0 else prompt
    time += (whole + 1) * (rates.full.beside * beside)
    if rates.window > 0:
        read = sum_capped(cached, rates.chunk, whole, rates.window + rates.chunk) + min(prompt, rates.window + last)
        time += rates.windowed.pair * sum_capped(cached, 1, count, rates.window)
        time += rates.windowed.context * read
        time += (whole + 1) * (rates.windowed.beside * min(beside, rates.window))
    return time


@jit
def decode_time(rates: Rates, prompt: int, steps: int) -> int:
    """Time of ``steps`` decode steps from a context of ``prompt`` tokens, the others decoding too."""
    own = steps * prompt + steps * (steps + 1) // 2
    beside = steps * rates.mean_context if rates.mean_context >= 0 else own
    time = steps * rates.decode_step + rates.full.decode * (own + rates.others * beside)
    if rates.window > 0:
        own_read = sum_capped(prompt, 1, steps, rates.window)
        beside_read = steps * min(rates.mean_context, rates.window) if rates.mean_context >= 0 else own_read
        time += rates.windowed.decode * (own_read + rates.others * beside_read)
    return time


@jit
def surviving_tokens(
    rates: Rates, hittable: int, reusable: int, gap_ns: int, logged: int, prompt: int
) -> tuple[int, float]:
    """How many of the hittable tokens are still cached, and the blocks x nanoseconds that the pause held.

    ``reusable`` are the blocks the parent left behind, ``gap_ns`` the time since it finished, ``logged`` the cached
    tokens according to the log (-1 unknown).
    """
    if rates.survival == TTL:
        if gap_ns <= rates.ttl_ns:
            return hittable, float(reusable) * float(gap_ns)
        return 0, float(reusable) * float(rates.ttl_ns)
    if rates.survival == LRU:
        # The parent's blocks joined the free queue at its back: whatever stands before them goes first.
        context = rates.mean_context if rates.mean_context >= 0 else prompt
        before = max(rates.usable_blocks - rates.others * blocks_for(rates, context) - reusable, 0)
        taken = gap_ns // rates.churn_ns
        evicted = min(max(taken - before, 0), reusable)
        whole = float(before * rates.churn_ns if taken > before else gap_ns)
        shrinking = float(evicted * rates.churn_ns)
        held = (
            float(reusable) * whole
            + (float(reusable) - float(evicted) * 0.5) * shrinking
            + (float(reusable) - float(evicted)) * (float(gap_ns) - whole - shrinking)
        )
        return min(hittable, (reusable - evicted) * rates.block_size), held
    if rates.survival == LOGGED:
        return (logged if logged >= 0 else hittable), (0.0 if logged == 0 else float(reusable) * float(gap_ns))
    if rates.survival == ALWAYS or rates.survival == NO_CACHE:
        return 0, 0.0
    return hittable, float(reusable) * float(gap_ns)


@jit
def status_of(rates: Rates, prompt: int, output: int) -> int:
    """Whether a turn can run at all beside the load."""
    if prompt + output > rates.max_model_len:
        return OVER_MAX
    beside = 0
    if rates.others > 0:
        beside = rates.others * blocks_for(rates, rates.mean_context if rates.mean_context >= 0 else prompt)
    return OVER_CAPACITY if blocks_for(rates, prompt + output - 1) + beside > rates.usable_blocks else OK


@jit
def price_turn(
    rates: Rates, step: Ints, prompt: int, output: int, hittable: int, reusable: int, gap_ns: int, logged: int
) -> tuple[int, int, int, int, int, float, int]:
    """One turn: fresh_ns, recompute_ns, decode_ns, cached_tokens, recomputed_tokens, held_block_ns, status."""
    final_blocks = blocks_for(rates, prompt + output - 1)
    status = status_of(rates, prompt, output)
    if status != OK:
        return 0, 0, 0, 0, 0, 0.0, status
    cached, held = surviving_tokens(rates, hittable, reusable, gap_ns, logged, prompt)
    hittable = 0 if rates.survival == NO_CACHE else max(hittable, cached)
    prefill_ns = to_ns(rates, prefill_time(rates, step, cached, prompt - cached))
    fresh_ns = prefill_ns
    if cached != hittable:
        # A step table need not be strictly monotone, so the part that is fresh is capped at the whole.
        fresh_ns = min(prefill_ns, to_ns(rates, prefill_time(rates, step, hittable, prompt - hittable)))
    decode_ns = to_ns(rates, decode_time(rates, prompt, output - 1))
    prompt_blocks = blocks_for(rates, prompt)
    held += float(prompt_blocks) * float(prefill_ns)
    held += float(prompt_blocks + final_blocks) * 0.5 * float(decode_ns)
    return fresh_ns, prefill_ns - fresh_ns, decode_ns, cached, hittable - cached, held, OK


class Turns(NamedTuple):
    """The batch's columns as the kernels take them; absent optional ones have length 0."""

    parent: Ints
    after: Ints
    kept: Ints
    prompt: Ints
    output: Ints
    pause_ns: Ints
    arrival_ns: Ints
    trajectory: Ints
    order: Ints
    waits_offsets: Ints
    waits_rows: Ints
    shared: Ints
    logged_cached: Ints


class PriceColumns(NamedTuple):
    """The prices of turns, one row a turn; all of length 0 where only totals are wanted."""

    release_ns: Ints
    fresh_ns: Ints
    recompute_ns: Ints
    decode_ns: Ints
    cached_tokens: Ints
    recomputed_tokens: Ints
    held_block_ns: npt.NDArray[np.float64]
    status: npt.NDArray[np.int8]


@jit
def estimate(
    rates: Rates,
    step: Ints,
    turns: Turns,
    finish_ns: Ints,
    totals: Ints,
    held_block_ns: npt.NDArray[np.float64],
    out: PriceColumns,
) -> None:
    """Prices every row in dependency order.

    ``finish_ns`` (rows,) is scratch; ``totals`` (trajectories, 8) has the columns :data:`TOTALS`; ``held_block_ns``
    (trajectories,).
    """
    # Columns as locals: reaching into a named tuple inside the loop costs Numba a reference count each time.
    parents, afters, kepts, prompts, outputs, pauses, arrivals, owners, order, waits, waited_rows, shares, logs = turns
    release_out, fresh_out, recompute_out, decode_out, cached_out, recomputed_out, held_out, status_out = out
    for owner in range(len(held_block_ns)):
        totals[owner, :] = 0
        totals[owner, 0] = 0x7FFFFFFFFFFFFFFF
        held_block_ns[owner] = 0.0
    for i in range(len(parents)):
        row = order[i] if len(order) > 0 else i
        parent = parents[row]
        after = afters[row]
        prompt = prompts[row]
        release = finish_ns[after] if after >= 0 else arrivals[row]
        waited = after >= 0
        if len(waits) > 0:
            for wait in range(waits[row], waits[row + 1]):
                release = max(release, finish_ns[waited_rows[wait]])
                waited = True
        if waited:
            release += pauses[row]
        shared = 0
        reusable = 0
        gap_ns = 0
        if parent >= 0:
            parent_output = max(outputs[parent], 1)
            computed = prompts[parent] + parent_output - 1
            # Where only the parent is waited for, the gap is the pause: no need to wait for its finish to be known.
            only_parent = after == parent and len(waits) == 0
            gap_ns = pauses[row] if only_parent else release - finish_ns[parent]
            if gap_ns < 0:  # the parent is still running, or has not even come
                came = afters[parent] >= 0 or arrivals[parent] <= release
                computed = prompts[parent] if came else 0
                gap_ns = 0
            if status_of(rates, prompts[parent], parent_output) != OK:
                computed = 0
            shared = min(kepts[row], computed)
            reusable = full_blocks(rates, computed)
        elif len(shares) > 0:  # a named prefix is in use by others: only ALWAYS loses it
            shared = shares[row]
            reusable = full_blocks(rates, shared)
        hittable = full_blocks(rates, min(shared, prompt - 1)) * rates.block_size
        logged = min(logs[row], prompt - 1) if len(logs) > 0 else -1
        fresh, recompute, decode, cached, recomputed, held, status = price_turn(
            rates, step, prompt, max(outputs[row], 1), hittable, reusable, gap_ns, logged
        )
        finish = release + fresh + recompute + decode
        finish_ns[row] = finish

        owner = owners[row]
        totals[owner, 0] = min(totals[owner, 0], release)
        totals[owner, 1] = max(totals[owner, 1], finish)
        totals[owner, 2] += fresh
        totals[owner, 3] += recompute
        totals[owner, 4] += decode
        totals[owner, 5] += cached
        totals[owner, 6] += recomputed
        totals[owner, 7] += status != OK
        held_block_ns[owner] += held
        if len(status_out) > 0:
            release_out[row] = release
            fresh_out[row] = fresh
            recompute_out[row] = recompute
            decode_out[row] = decode
            cached_out[row] = cached
            recomputed_out[row] = recomputed
            held_out[row] = held
            status_out[row] = status


@jit
def topological_order(
    parents: Ints,
    afters: Ints,
    waits: Ints,
    waited_rows: Ints,
    missing: Ints,
    starts: Ints,
    dependants: Ints,
    order: Ints,
) -> int:
    """Rows so that each stands after all it depends on, ready rows first come; returns how many could be ordered.

    Kahn's algorithm; rows on cycles are left out. ``missing`` (rows,), ``starts`` (rows + 2,) and ``dependants``
    (as many as there are dependencies) are scratch, the first two zeroed; ``order`` (rows,) is the result.
    """
    rows = len(parents)
    for row in range(rows):  # starts[d + 2] counts the dependants of row d
        if parents[row] >= 0:
            missing[row] += 1
            starts[parents[row] + 2] += 1
        if afters[row] >= 0:
            missing[row] += 1
            starts[afters[row] + 2] += 1
        if len(waits) > 0:
            for wait in range(waits[row], waits[row + 1]):
                missing[row] += 1
                starts[waited_rows[wait] + 2] += 1
    for row in range(rows):
        starts[row + 2] += starts[row + 1]
    for row in range(rows):  # filling moves starts[d + 1] from the start of d's dependants to their end
        if parents[row] >= 0:
            dependants[starts[parents[row] + 1]] = row
            starts[parents[row] + 1] += 1
        if afters[row] >= 0:
            dependants[starts[afters[row] + 1]] = row
            starts[afters[row] + 1] += 1
        if len(waits) > 0:
            for wait in range(waits[row], waits[row + 1]):
                dependants[starts[waited_rows[wait] + 1]] = row
                starts[waited_rows[wait] + 1] += 1
    count = 0
    for row in range(rows):
        if missing[row] == 0:
            order[count] = row
            count += 1
    done = 0
    while done < count:
        row = order[done]
        done += 1
        for at in range(starts[row], starts[row + 1]):
            dependant = dependants[at]
            missing[dependant] -= 1
            if missing[dependant] == 0:
                order[count] = dependant
                count += 1
    return count
