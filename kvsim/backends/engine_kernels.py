"""vLLM V1's scheduler and KV-cache pool as readable text: one engine step at a time, blocks one by one.

Loaded as it stands it is the oracle; with ``jit`` bound to Numba's it is the fallback (as :mod:`kvsim.backends.kernels`).
``csrc/pool.hpp``, ``scheduler.hpp`` and ``simulate.hpp`` are the fast text: other data structures, the same decisions
and the same integers. The rules are vLLM 0.32's: ``Scheduler.schedule``, ``KVCacheManager.allocate_slots``,
``BlockPool``. All jitted code stands in this one file.

Rows are turns (requests), blocks are numbers from 1 (0 is the null block), keys are numbers of full blocks of contexts.
Times called ``units`` are 2^-fraction_bits ns; names ending in ``_ns`` are whole nanoseconds.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

if TYPE_CHECKING or "jit" not in globals():

    def jit(function: Any) -> Any:
        """Leaves the function as it is: the oracle is uncompiled Python."""
        return function


# What happens to the keys of blocks that nobody holds.
NO_CACHE, DROP, LRU = range(3)


class Settings(NamedTuple):
    """An engine's arguments that its scheduler obeys, by vLLM's names."""

    block_size: int
    num_gpu_blocks: int  # the null block among them
    max_num_batched_tokens: int
    max_num_seqs: int
    long_prefill_token_threshold: int
    watermark_blocks: int
    scheduler_reserve_full_isl: int
    enable_chunked_prefill: int
    priority: int  # 1: scheduling_policy="priority", 0: "fcfs"
    retention: int  # NO_CACHE, DROP or LRU


class GroupLaw(NamedTuple):
    """One attention group of the law (:class:`kvsim.law.AttentionTable`)."""

    pair: int
    context: int
    decode: Ints


class StepLaw(NamedTuple):
    """How long a step takes (:class:`kvsim.law.Law`)."""

    fraction_bits: int
    step: Ints
    sequences: Ints
    window: int
    full: GroupLaw
    windowed: GroupLaw


class Contexts(NamedTuple):
    """The prefix tree, cut into blocks: which key each full block of each row's prompt + output has.

    Blocks below ``own_from[row]`` are the context above: the row ``above[row]``, or for roots the named prefix whose
    block 0 has the key ``prefix_key[row]``. A row's own blocks have the keys from ``first_key[row]`` on.
    """

    prompt: Ints
    output: Ints  # at least 1
    priority: Ints
    above: Ints
    own_from: Ints
    first_key: Ints
    prefix_key: Ints
    hittable: Ints  # tokens found in the cache if nothing had been evicted
    keys: int


# Places in Engine.counts.
FREE, EVICTED, RUNNING, WAITING, SCHEDULED, PREEMPTED, FINISHED, ARRIVED = range(8)

END = -1


class Engine(NamedTuple):
    """Everything that changes. Arrays by block, by key, by row, and of the last step."""

    counts: Ints
    # Blocks. The free queue is a ring through ``later`` and ``earlier`` that starts and ends at block 0.
    later: Ints
    earlier: Ints
    held_by: Ints  # how many requests hold the block
    key: Ints  # END: none
    same_key: Ints  # the block that got the same key next
    first: Ints  # by key: the first block that got it and still has it
    # Requests.
    table: Ints  # the blocks of row r stand from table_start[r] on
    table_start: Ints
    held: Ints  # blocks held
    keyed: Ints  # of those, how many have got their key
    computed: Ints
    generated: Ints
    preemptions: Ints
    cached: Ints  # tokens hit at the first admission, END: not yet admitted
    arrival: Ints  # running number of the request
    running: Ints  # rows in order of admission
    waiting: Ints  # rows in order of service
    # The last step.
    scheduled: Ints
    before: Ints  # computed tokens before the step
    tokens: Ints  # tokens scheduled
    preempted: Ints
    finished: Ints


@jit
def new_engine(settings: Settings, contexts: Contexts) -> Engine:
    """An engine with an empty cache that will serve the rows of ``contexts``."""
    rows = len(contexts.prompt)
    blocks = settings.num_gpu_blocks
    counts = np.zeros(8, np.int64)
    counts[FREE] = blocks - 1
    ring = np.arange(blocks)
    start = np.zeros(rows + 1, np.int64)
    for row in range(rows):
        longest = contexts.prompt[row] + contexts.output[row] - 1
        start[row + 1] = start[row] + -(-longest // settings.block_size)
    return Engine(
        counts=counts,
        later=(ring + 1) % blocks,
        earlier=(ring - 1) % blocks,
        held_by=np.zeros(blocks, np.int64),
        key=np.full(blocks, END, np.int64),
        same_key=np.full(blocks, END, np.int64),
        first=np.full(contexts.keys, END, np.int64),
        table=np.zeros(start[rows], np.int64),
        table_start=start,
        held=np.zeros(rows, np.int64),
        keyed=np.zeros(rows, np.int64),
        computed=np.zeros(rows, np.int64),
        generated=np.zeros(rows, np.int64),
        preemptions=np.zeros(rows, np.int64),
        cached=np.full(rows, END, np.int64),
        arrival=np.zeros(rows, np.int64),
        running=np.zeros(rows, np.int64),
        waiting=np.zeros(rows, np.int64),
        scheduled=np.zeros(rows, np.int64),
        before=np.zeros(rows, np.int64),
        tokens=np.zeros(rows, np.int64),
        preempted=np.zeros(rows, np.int64),
        finished=np.zeros(rows, np.int64),
    )


# ---- The pool ----


@jit
def key_of(contexts: Contexts, row: int, block: int) -> int:
    """The key of a full block of a row's context."""
    while block < contexts.own_from[row]:
        if contexts.above[row] < 0:
            return contexts.prefix_key[row] + block
        row = contexts.above[row]
    return contexts.first_key[row] + block - contexts.own_from[row]


@jit
def unlink(engine: Engine, block: int) -> None:
    """Takes a block out of the free queue."""
    engine.later[engine.earlier[block]] = engine.later[block]
    engine.earlier[engine.later[block]] = engine.earlier[block]
    engine.counts[FREE] -= 1


@jit
def link_after(engine: Engine, block: int, place: int) -> None:
    """Puts a block into the free queue behind ``place``; behind 0 is the front, behind earlier[0] the back."""
    engine.earlier[block] = place
    engine.later[block] = engine.later[place]
    engine.earlier[engine.later[place]] = block
    engine.later[place] = block
    engine.counts[FREE] += 1


@jit
def give_key(engine: Engine, block: int, key: int) -> None:
    """Keys are not unique: the block stands behind all that have the same one."""
    engine.key[block] = key
    engine.same_key[block] = END
    last = engine.first[key]
    if last == END:
        engine.first[key] = block
    else:
        while engine.same_key[last] != END:
            last = engine.same_key[last]
        engine.same_key[last] = block


@jit
def take_key(engine: Engine, block: int) -> None:
    """The block cannot be hit any more."""
    key = engine.key[block]
    if engine.first[key] == block:
        engine.first[key] = engine.same_key[block]
    else:
        other = engine.first[key]
        while engine.same_key[other] != block:
            other = engine.same_key[other]
        engine.same_key[other] = engine.same_key[block]
    engine.key[block] = END


@jit
def hits(settings: Settings, contexts: Contexts, engine: Engine, row: int) -> int:
    """The longest run of known keys from the first block; at least one token is left to compute."""
    if settings.retention == NO_CACHE:
        return 0
    most = (contexts.prompt[row] + engine.generated[row] - 1) // settings.block_size
    for block in range(most):
        if engine.first[key_of(contexts, row, block)] == END:
            return block
    return most


@jit
def idle_hits(contexts: Contexts, engine: Engine, row: int, count: int) -> int:
    """How many of the first ``count`` hits stand in the free queue."""
    idle = 0
    for block in range(count):
        if engine.held_by[engine.first[key_of(contexts, row, block)]] == 0:
            idle += 1
    return idle


@jit
def touch(contexts: Contexts, engine: Engine, row: int, count: int) -> None:
    """The row takes its first ``count`` blocks from the cache."""
    for block in range(count):
        found = engine.first[key_of(contexts, row, block)]
        if engine.held_by[found] == 0:
            unlink(engine, found)
        engine.held_by[found] += 1
        engine.table[engine.table_start[row] + block] = found
    engine.held[row] = count
    engine.keyed[row] = count


@jit
def allocate(settings: Settings, contexts: Contexts, engine: Engine, row: int, slots: int) -> None:
    """Blocks for ``slots`` tokens from the front of the free queue, and keys for those that the tokens fill.

    A block that loses its key here is evicted.
    """
    start = engine.table_start[row]
    for place in range(engine.held[row], -(-slots // settings.block_size)):
        block = engine.later[0]
        unlink(engine, block)
        if engine.key[block] != END:
            take_key(engine, block)
            engine.counts[EVICTED] += 1
        engine.held_by[block] = 1
        engine.table[start + place] = block
        engine.held[row] = place + 1
    if settings.retention != NO_CACHE:
        for place in range(engine.keyed[row], slots // settings.block_size):
            give_key(engine, engine.table[start + place], key_of(contexts, row, place))
            engine.keyed[row] = place + 1


@jit
def release(settings: Settings, engine: Engine, row: int) -> None:
    """Gives all blocks back, the last first: those with a key to the back of the free queue, others to its front."""
    start = engine.table_start[row]
    for place in range(engine.held[row] - 1, -1, -1):
        block = engine.table[start + place]
        engine.held_by[block] -= 1
        if engine.held_by[block] == 0:
            if engine.key[block] != END and settings.retention == DROP:
                take_key(engine, block)
            link_after(engine, block, 0 if engine.key[block] == END else engine.earlier[0])
    engine.held[row] = 0
    engine.keyed[row] = 0


# ---- The scheduler ----


@jit
def later_served(contexts: Contexts, engine: Engine, row: int, other: int) -> bool:
    """Whether priority scheduling serves ``row`` after ``other``."""
    if contexts.priority[row] != contexts.priority[other]:
        return contexts.priority[row] > contexts.priority[other]
    return engine.arrival[row] > engine.arrival[other]


@jit
def enqueue(settings: Settings, contexts: Contexts, engine: Engine, row: int, place: int) -> None:
    """Puts a request into the waiting queue: at ``place``, or under the priority policy where it belongs."""
    if settings.priority:
        place = 0
        while place < engine.counts[WAITING] and later_served(contexts, engine, row, engine.waiting[place]):
            place += 1
    for other in range(engine.counts[WAITING], place, -1):
        engine.waiting[other] = engine.waiting[other - 1]
    engine.waiting[place] = row
    engine.counts[WAITING] += 1


@jit
def arrive(settings: Settings, contexts: Contexts, engine: Engine, row: int) -> None:
    """A new request joins the waiting queue."""
    engine.arrival[row] = engine.counts[ARRIVED]
    engine.counts[ARRIVED] += 1
    enqueue(settings, contexts, engine, row, engine.counts[WAITING])


@jit
def remove(rows: Ints, count: int, place: int) -> None:
    """Closes the gap at ``place``."""
    for other in range(place, count - 1):
        rows[other] = rows[other + 1]


@jit
def preempt(settings: Settings, contexts: Contexts, engine: Engine) -> int:
    """Sends the least important running request back to the waiting queue; returns its former place in running."""
    counts = engine.counts
    place = counts[RUNNING] - 1
    if settings.priority:
        place = 0
        for other in range(1, counts[RUNNING]):
            if later_served(contexts, engine, engine.running[other], engine.running[place]):
                place = other
    victim = engine.running[place]
    remove(engine.running, counts[RUNNING], place)
    counts[RUNNING] -= 1
    release(settings, engine, victim)
    engine.computed[victim] = 0
    engine.preemptions[victim] += 1
    engine.preempted[counts[PREEMPTED]] = victim
    counts[PREEMPTED] += 1
    enqueue(settings, contexts, engine, victim, 0)
    return place


@jit
def unschedule(engine: Engine, row: int) -> int:
    """Takes a victim out of the step under way; returns its tokens to the budget."""
    counts = engine.counts
    for place in range(counts[SCHEDULED]):
        if engine.scheduled[place] == row:
            tokens = engine.tokens[place]
            for column in (engine.scheduled, engine.before, engine.tokens):
                remove(column, counts[SCHEDULED], place)
            counts[SCHEDULED] -= 1
            return tokens
    return 0


@jit
def add_to_step(engine: Engine, row: int, tokens: int) -> None:
    """Notes that the step computes so many tokens of the row."""
    place = engine.counts[SCHEDULED]
    engine.scheduled[place] = row
    engine.before[place] = engine.computed[row]
    engine.tokens[place] = tokens
    engine.counts[SCHEDULED] = place + 1


@jit
def schedule(settings: Settings, contexts: Contexts, engine: Engine) -> None:
    """Decides what the next step computes: ``scheduled``, ``before``, ``tokens``, and who is ``preempted``."""
    counts = engine.counts
    size = settings.block_size
    counts[SCHEDULED] = 0
    counts[PREEMPTED] = 0
    budget = settings.max_num_batched_tokens
    longest = budget  # most tokens of one request
    if settings.long_prefill_token_threshold > 0 and counts[RUNNING] + counts[WAITING] > 1:
        longest = settings.long_prefill_token_threshold

    place = 0
    while place < counts[RUNNING] and budget > 0:
        row = engine.running[place]
        computed = engine.computed[row]
        count = min(contexts.prompt[row] + engine.generated[row] - computed, longest, budget)
        alive = True
        while alive and -(-(computed + count) // size) - engine.held[row] > counts[FREE]:
            victim_place = preempt(settings, contexts, engine)
            victim = engine.preempted[counts[PREEMPTED] - 1]
            budget += unschedule(engine, victim)
            alive = victim != row
            if victim_place < place:
                place -= 1
        if not alive:
            break
        allocate(settings, contexts, engine, row, computed + count)
        add_to_step(engine, row, count)
        budget -= count
        place += 1

    if counts[PREEMPTED] > 0:
        return
    while counts[WAITING] > 0 and budget > 0 and counts[RUNNING] < settings.max_num_seqs:
        row = engine.waiting[0]
        found = hits(settings, contexts, engine, row)
        total = contexts.prompt[row] + engine.generated[row]
        count = min(total - found * size, longest)
        if count > budget and not settings.enable_chunked_prefill:
            break
        count = min(count, budget)
        # Idle hits are counted as needed, since taking them shortens the free queue.
        needed = idle_hits(contexts, engine, row, found) - found
        if counts[RUNNING] > 0:
            needed += settings.watermark_blocks
        slots = found * size + count
        if settings.scheduler_reserve_full_isl and needed + -(-total // size) > counts[FREE]:
            break
        if needed + -(-slots // size) > counts[FREE]:
            break
        counts[WAITING] -= 1
        remove(engine.waiting, counts[WAITING] + 1, 0)
        engine.running[counts[RUNNING]] = row
        counts[RUNNING] += 1
        touch(contexts, engine, row, found)
        engine.computed[row] = found * size
        if engine.cached[row] == END:
            engine.cached[row] = found * size
        allocate(settings, contexts, engine, row, slots)
        add_to_step(engine, row, count)
        budget -= count


@jit
def update(settings: Settings, contexts: Contexts, engine: Engine) -> None:
    """What the step's end brings: tokens computed, a token each for those that caught up, and who is ``finished``."""
    counts = engine.counts
    counts[FINISHED] = 0
    for place in range(counts[SCHEDULED]):
        row = engine.scheduled[place]
        engine.computed[row] += engine.tokens[place]
        if engine.computed[row] == contexts.prompt[row] + engine.generated[row]:
            engine.generated[row] += 1
            if engine.generated[row] == contexts.output[row]:
                release(settings, engine, row)
                engine.finished[counts[FINISHED]] = row
                counts[FINISHED] += 1
    kept = 0
    for place in range(counts[RUNNING]):
        row = engine.running[place]
        if engine.generated[row] < contexts.output[row]:
            engine.running[kept] = row
            kept += 1
    counts[RUNNING] = kept
