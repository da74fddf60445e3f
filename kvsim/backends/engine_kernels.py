"""vLLM V1's scheduler and KV-cache pool as readable text: one engine step at a time, blocks one by one.

Loaded as it stands it is the oracle; with ``jit`` bound to Numba's it is the fallback, as ``kernels.py`` is.
``csrc/pool.hpp``, ``block_pool.hpp``, ``scheduler.hpp`` and ``simulate.hpp`` are the fast text: other data structures,
the same decisions and the same integers. The rules are vLLM 0.32's: ``Scheduler.schedule``,
``KVCacheManager.allocate_slots``, ``HybridKVCacheCoordinator``, ``SlidingWindowManager``, ``BlockPool``. All jitted
code stands in this one file.

Rows are turns (requests), blocks are numbers from 1 (0 is the null block), keys are numbers of full blocks of contexts.
Layers whose cache lives alike form a KV group; each group has blocks of its own for every context, all from one pool.
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

#: The windows of a model whose layers all attend to everything.
ONE_FULL_GROUP: Ints = np.zeros(1, np.int64)


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
    async_scheduling: int  # 1: a step is scheduled while the one before it runs
    windows: Ints = ONE_FULL_GROUP  # by KV group: tokens of its sliding window, 0 full attention


class GroupLaw(NamedTuple):
    """One attention group of the law (:class:`kvsim.law.AttentionTable`)."""

    pair: int
    context: int
    decode: Ints
    mixed: Ints  # in place of decode in steps that also have a chunk


class StepLaw(NamedTuple):
    """How long a step takes (:class:`kvsim.law.Law`)."""

    fraction_bits: int
    step: Ints
    sequences: Ints
    window: int
    tile_keys: int  # context that each sequence decoding beside a chunk seems to read on top
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
    hittable: Ints  # tokens found in the cache if nothing had been evicted, for one group of full attention
    continues: Ints  # 1: the first row that extends the whole of the row above; the two are one chain
    keys: int


# Where blocks are stored in the host tier: nowhere, when a request gives them back, when they are evicted, or when a
# turn's pause is to be spent there.
NO_HOST, WRITE_THROUGH, ON_EVICTION, SWAP = range(4)

FOREVER = 1 << 62
AWAITED = FOREVER + 1  # held until a turn that waits already has been admitted


class Plan(NamedTuple):
    """What a retention policy asks of the engine. Columns are by row; an empty one: the mechanism is not used.

    Hold: the blocks of a finished turn stay held until a turn that extends it has been admitted, if one comes within
    ``hold_ns``.
    Order: idle blocks are evicted by the instant of their next use, the last first.
    Host: a second tier of blocks, from which a lookup's run of known keys goes on.
    Least waste: each finished turn is held, stored in the host tier, or given back, whichever wastes least.
    """

    drop: int  # 1: a block that nobody holds is forgotten
    hold_ns: Ints  # 0: not held, FOREVER: until the next turn
    next_use_ns: Ints  # from the turn's finish; END: never
    host: int  # NO_HOST, WRITE_THROUGH, ON_EVICTION or SWAP
    host_blocks: int
    load_ns: int  # of one block from the host tier; one load after another
    pause_us: Ints  # expected
    recompute_us: Ints  # of the context
    swap_us: Ints  # of the context's way to the host tier


NO_COLUMN: Ints = np.zeros(0, np.int64)

NO_PLAN = Plan(0, NO_COLUMN, NO_COLUMN, NO_HOST, 0, 0, NO_COLUMN, NO_COLUMN, NO_COLUMN)


#: No room for evictions: they are not written down.
NOT_KEPT: Ints = np.zeros((0, 4), np.int64)

# Places in Engine.counts.
FREE, EVICTED, RUNNING, WAITING, SCHEDULED, PREEMPTED, FINISHED, ARRIVED = range(8)
AHEAD, SAMPLED, HELD_ON, STORED, LINK_NS, LOGGED, NOW_NS = range(8, 15)

END = -1


class Engine(NamedTuple):
    """Everything that changes. Arrays by block, by key, by row, and of the last step."""

    counts: Ints
    # Blocks. The free queue is a ring through ``later`` and ``earlier`` that starts and ends at block 0.
    later: Ints
    earlier: Ints
    held_by: Ints  # how many requests hold the block
    key: Ints  # group x keys + key, END: none
    same_key: Ints  # the block that got the same key next
    first: Ints  # by group x keys + key: the first block that got it and still has it
    once: Ints  # likewise: whether any block ever got it, or would have with caching
    # What a retention policy needs, empty where it does not.
    plan: Plan
    next_use: Ints  # of idle blocks: END where several contexts share them
    used_again: Ints  # by row: what its blocks get when it gives them back
    shared: Ints  # by key: 1 if a context branches off at or behind the block
    key_behind: Ints  # by key: the next block's of the chain, END: none
    held_on: Ints  # finished rows that still hold their blocks, in the order of their finishes
    held_until: Ints  # by row
    stored_later: Ints  # by key + 1: the host tier's keys, a ring as above that starts and ends at 0; END: not stored
    stored_earlier: Ints
    ready_ns: Ints  # by row: when its blocks are loaded, END: nothing is
    loaded: Ints  # by row: tokens loaded at the first admission
    log: Ints  # who evicted what, (entries, 4): time, row, first key and end of the keys; without entries: not kept
    # Requests.
    table: Ints  # by group: the blocks of row r stand from table_start[r] on, 0 where the window has passed
    table_start: Ints
    held: Ints  # places in each group's table
    in_use: Ints  # blocks held, in all groups
    keyed: Ints  # of the places, how many have had their turn to get their key
    junction: Ints  # where the row leaves a prefix that some groups know further than others, in blocks; 0: nowhere
    hittable: Ints  # tokens found at the first admission if nothing had been evicted
    computed: Ints  # tokens, those of the steps in flight among them
    generated: Ints  # tokens that have come
    preemptions: Ints
    cached: Ints  # tokens hit at the first admission, END: not yet admitted
    arrival: Ints  # running number of the request
    running: Ints  # rows in order of admission
    waiting: Ints  # rows in order of service
    # The step scheduled last, and the one ahead of it if that is still in flight.
    scheduled: Ints
    before: Ints  # computed tokens before the step
    tokens: Ints  # tokens scheduled
    scheduled_ahead: Ints
    before_ahead: Ints
    tokens_ahead: Ints
    preempted: Ints  # by the last schedule
    sampled: Ints  # who got a token in the last update
    finished: Ints  # of those, who got the last one


@jit
def new_engine(settings: Settings, contexts: Contexts, plan: Plan, log: Ints) -> Engine:
    """An engine with an empty cache that will serve the rows of ``contexts``; ``log`` has room for evictions."""
    rows = len(contexts.prompt)
    blocks = settings.num_gpu_blocks
    counts = np.zeros(15, np.int64)
    counts[FREE] = blocks - 1
    ring = np.arange(blocks)
    start = np.zeros(rows + 1, np.int64)
    for row in range(rows):
        longest = contexts.prompt[row] + contexts.output[row] - 1
        start[row + 1] = start[row] + -(-longest // settings.block_size)
    held_on = rows if len(plan.hold_ns) > 0 else 0
    stored = np.full(contexts.keys + 1 if plan.host != NO_HOST else 0, END, np.int64)
    stored[:1] = 0
    next_use = used_again = shared = key_behind = np.zeros(0, np.int64)
    if len(plan.next_use_ns) > 0:
        next_use = np.zeros(blocks, np.int64)
        used_again = np.zeros(rows, np.int64)
        shared = shared_keys(contexts)
        key_behind = keys_behind(settings, contexts)
    return Engine(
        counts=counts,
        later=(ring + 1) % blocks,
        earlier=(ring - 1) % blocks,
        held_by=np.zeros(blocks, np.int64),
        key=np.full(blocks, END, np.int64),
        same_key=np.full(blocks, END, np.int64),
        first=np.full(len(settings.windows) * contexts.keys, END, np.int64),
        once=np.zeros(len(settings.windows) * contexts.keys, np.int64),
        plan=plan,
        next_use=next_use,
        used_again=used_again,
        shared=shared,
        key_behind=key_behind,
        held_on=np.zeros(held_on, np.int64),
        held_until=np.full(held_on, END, np.int64),
        stored_later=stored,
        stored_earlier=stored.copy(),
        ready_ns=np.full(rows, END, np.int64),
        loaded=np.zeros(rows, np.int64),
        log=log,
        table=np.zeros((len(settings.windows), start[rows]), np.int64),
        table_start=start,
        held=np.zeros(rows, np.int64),
        in_use=np.zeros(rows, np.int64),
        keyed=np.zeros(rows, np.int64),
        junction=np.zeros(rows, np.int64),
        hittable=contexts.hittable.copy(),
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
        scheduled_ahead=np.zeros(rows, np.int64),
        before_ahead=np.zeros(rows, np.int64),
        tokens_ahead=np.zeros(rows, np.int64),
        preempted=np.zeros(rows, np.int64),
        sampled=np.zeros(rows, np.int64),
        finished=np.zeros(rows, np.int64),
    )


# ---- The pool ----


@jit
def key_of(contexts: Contexts, row: int, block: int) -> int:
    """The key of a full block of a row's context."""
    while block < contexts.own_from[row]:
        if contexts.above[row] < 0:
            return int(contexts.prefix_key[row] + block)
        row = contexts.above[row]
    return int(contexts.first_key[row] + block - contexts.own_from[row])


@jit
def shared_keys(contexts: Contexts) -> Ints:
    """By key: 1 for the blocks at or behind which some context branches off."""
    shared = np.zeros(contexts.keys, np.int64)
    for row in range(len(contexts.prompt)):
        if not contexts.continues[row]:
            for block in range(contexts.own_from[row]):
                shared[key_of(contexts, row, block)] = 1
    return shared


@jit
def keys_behind(settings: Settings, contexts: Contexts) -> Ints:
    """By key: that of the next block in the same chain, END where there is none. Of shared blocks it is any."""
    behind = np.full(contexts.keys, END, np.int64)
    for row in range(len(contexts.prompt)):
        full = (contexts.prompt[row] + contexts.output[row]) // settings.block_size
        for block in range(max(contexts.own_from[row], 1), full):
            behind[key_of(contexts, row, block - 1)] = key_of(contexts, row, block)
    return behind


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
def window_blocks(settings: Settings, group: int) -> int:
    """How many blocks before a token its window reaches into, if the token begins a block."""
    return int(-(-(settings.windows[group] - 1) // settings.block_size))


@jit
def known_blocks(
    settings: Settings, contexts: Contexts, unknown: int, by_key: Ints, row: int, group: int, most: int
) -> int:
    """How many of the row's first ``most`` blocks a group could be spared to compute; a key is unknown where
    ``by_key`` is ``unknown``.

    Full attention needs all of them. A window needs only the last ones: the search goes from the right for as many
    neighbours as it reaches into; failing that, those at the very beginning will do.
    """
    if settings.windows[group] == 0:
        for block in range(most):
            if by_key[group * contexts.keys + key_of(contexts, row, block)] == unknown:
                return block
        return most
    together = 0
    for block in range(most - 1, -1, -1):
        if by_key[group * contexts.keys + key_of(contexts, row, block)] == unknown:
            together = 0
            continue
        together += 1
        if together >= window_blocks(settings, group):
            return block + together
    return together


@jit
def shared_hits(
    settings: Settings, contexts: Contexts, unknown: int, by_key: Ints, row: int, most: int, window: int
) -> int:
    """The most blocks that all groups with this window (END: all groups) could be spared."""
    agreed = False
    while not agreed:
        agreed = True
        for group in range(len(settings.windows)):
            if window == END or settings.windows[group] == window:
                known = known_blocks(settings, contexts, unknown, by_key, row, group, most)
                agreed = agreed and known == most
                most = known
    return int(most)


@jit
def hits(settings: Settings, contexts: Contexts, engine: Engine, row: int) -> int:
    """How many blocks the row would take from the cache, in each group; at least one token is left to compute.

    Notes the row's junction: how far full attention (without such a group: the first window) knows its context, if
    others know less. The row will leave what they lack there for those that come after it.
    """
    engine.junction[row] = 0
    if settings.retention == NO_CACHE:
        return 0
    most = (contexts.prompt[row] + engine.generated[row] - 1) // settings.block_size
    leading = settings.windows[0]
    for window in settings.windows:
        leading = 0 if window == 0 else leading
    furthest = shared_hits(settings, contexts, END, engine.first, row, most, leading)
    found = shared_hits(settings, contexts, END, engine.first, row, furthest, END)
    if found < furthest:
        engine.junction[row] = furthest
    return int(found)


@jit
def note_hittable(settings: Settings, contexts: Contexts, engine: Engine, row: int) -> None:
    """What the row would have hit, had no block lost its key.

    Full attention keeps all that was computed, which the contexts tell. What windows keep depends on where earlier
    prompts ended, so that it is looked up among the keys that blocks once had.
    """
    if len(settings.windows) > 1 or settings.windows[0] > 0:
        most = (contexts.prompt[row] - 1) // settings.block_size
        found = shared_hits(settings, contexts, 0, engine.once, row, most, END)
        engine.hittable[row] = found * settings.block_size


@jit
def first_held(settings: Settings, group: int, computed: int) -> int:
    """The first block that a group still needs when so many tokens are computed."""
    if settings.windows[group] == 0:
        return 0
    return int(max(computed - settings.windows[group] + 1, 0) // settings.block_size)


@jit
def idle_hits(settings: Settings, contexts: Contexts, engine: Engine, row: int, count: int) -> int:
    """How many of the blocks that the row would take for ``count`` hits stand in the free queue."""
    idle = 0
    for group in range(len(settings.windows)):
        for block in range(first_held(settings, group, count * settings.block_size), count):
            if engine.held_by[engine.first[group * contexts.keys + key_of(contexts, row, block)]] == 0:
                idle += 1
    return idle


@jit
def touch(settings: Settings, contexts: Contexts, engine: Engine, row: int, count: int) -> None:
    """The row takes its first ``count`` blocks from the cache, but for those that the windows have passed."""
    for group in range(len(settings.windows)):
        passed = first_held(settings, group, count * settings.block_size)
        for block in range(count):
            found = 0
            if block >= passed:
                found = engine.first[group * contexts.keys + key_of(contexts, row, block)]
                if engine.held_by[found] == 0:
                    unlink(engine, found)
                engine.held_by[found] += 1
                engine.in_use[row] += 1
            engine.table[group, engine.table_start[row] + block] = found
    engine.held[row] = count
    engine.keyed[row] = count


@jit
def new_blocks(settings: Settings, engine: Engine, row: int, tokens: int) -> int:
    """How many blocks the row has to take, in all groups, to hold so many tokens."""
    return int(len(settings.windows) * max(-(-tokens // settings.block_size) - engine.held[row], 0))


@jit
def reserved_blocks(settings: Settings, found: int, tokens: int) -> int:
    """How many blocks beyond ``found`` hits a row of so many tokens may need at a time.

    A window never holds more than its own tokens and those of the steps under way.
    """
    under_way = settings.max_num_batched_tokens * (1 + settings.async_scheduling)
    blocks = 0
    for window in settings.windows:
        longest = -(-tokens // settings.block_size)
        if window > 0:
            longest = min(longest, -(-(window - 1 + under_way) // settings.block_size) + 1)
        blocks += max(longest - found, 0)
    return int(blocks)


@jit
def is_kept(settings: Settings, contexts: Contexts, engine: Engine, row: int, group: int, block: int) -> bool:
    """Whether a full block gets its key: with windows only those from which another row could go on.

    Those are what the window reaches into before the prompt's last token, and before the junction.
    """
    if settings.windows[group] == 0:
        return True
    reach = window_blocks(settings, group)
    end = (contexts.prompt[row] - 1) // settings.block_size
    junction = engine.junction[row]
    return bool(end - reach <= block < end or junction - reach <= block < junction)


@jit
def take_blocks(settings: Settings, engine: Engine, row: int, slots: int) -> None:
    """Blocks for ``slots`` tokens in all from the front of the free queue; one that loses its key here is evicted."""
    start = engine.table_start[row]
    held = max(engine.held[row], -(-slots // settings.block_size))
    for group in range(len(settings.windows)):
        for place in range(engine.held[row], held):
            block = engine.later[0]
            unlink(engine, block)
            if engine.key[block] != END:
                if engine.plan.host == ON_EVICTION:
                    store(engine, engine.key[block])
                if len(engine.log) > 0:
                    note_eviction(engine, row, engine.key[block])
                take_key(engine, block)
                engine.counts[EVICTED] += 1
            engine.held_by[block] = 1
            engine.in_use[row] += 1
            engine.table[group, start + place] = block
    engine.held[row] = held


@jit
def note_eviction(engine: Engine, row: int, key: int) -> None:
    """A row takes the block that had this key; neighbours that go one after the other are one entry."""
    log, count, now_ns = engine.log, engine.counts[LOGGED], engine.counts[NOW_NS]
    if count > 0 and log[count - 1, 0] == now_ns and log[count - 1, 1] == row and log[count - 1, 2] == key + 1:
        log[count - 1, 2] = key
        return
    log[count, 0] = now_ns
    log[count, 1] = row
    log[count, 2] = key
    log[count, 3] = key + 1
    engine.counts[LOGGED] += 1


@jit
def allocate(settings: Settings, contexts: Contexts, engine: Engine, row: int, slots: int) -> None:
    """Blocks for ``slots`` tokens, and keys for those that known tokens fill."""
    take_blocks(settings, engine, row, slots)
    give_keys(settings, contexts, engine, row, min(slots, contexts.prompt[row] + engine.generated[row]))


@jit
def give_keys(settings: Settings, contexts: Contexts, engine: Engine, row: int, tokens: int) -> None:
    """Keys for the blocks that the row's first ``tokens`` tokens fill."""
    start = engine.table_start[row]
    full = max(engine.keyed[row], tokens // settings.block_size)
    for group in range(len(settings.windows)):
        for place in range(engine.keyed[row], full):
            if is_kept(settings, contexts, engine, row, group, place):
                key = group * contexts.keys + key_of(contexts, row, place)
                engine.once[key] = 1
                if settings.retention != NO_CACHE:
                    give_key(engine, engine.table[group, start + place], key)
    engine.keyed[row] = full


@jit
def give_back(settings: Settings, engine: Engine, row: int, group: int, place: int) -> None:
    """A row lets a block go; if it was the last: to the back of the free queue with a key, to its front without."""
    at = engine.table_start[row] + place
    block = engine.table[group, at]
    engine.table[group, at] = 0
    engine.in_use[row] -= 1
    engine.held_by[block] -= 1
    if engine.held_by[block] == 0:
        if engine.key[block] != END and settings.retention == DROP:
            take_key(engine, block)
        if engine.key[block] == END:
            link_after(engine, block, 0)
        elif len(engine.next_use) > 0:
            keep_in_order(engine, block, engine.used_again[row])
        else:
            link_after(engine, block, engine.earlier[0])


@jit
def give_back_before(settings: Settings, engine: Engine, row: int, group: int, end: int) -> None:
    """Gives back the blocks before ``end``, the last first; before one that is back already, all are."""
    for place in range(end - 1, -1, -1):
        if engine.table[group, engine.table_start[row] + place] == 0:
            break
        give_back(settings, engine, row, group, place)


@jit
def release_passed(settings: Settings, engine: Engine, row: int) -> None:
    """Gives back what the windows have passed; the step in flight still reads what it began with."""
    computed = engine.computed[row]
    for place in range(engine.counts[AHEAD]):
        if engine.scheduled_ahead[place] == row:
            computed = engine.before_ahead[place]
    for group in range(len(settings.windows)):
        passed = min(first_held(settings, group, computed), engine.held[row])
        give_back_before(settings, engine, row, group, passed)


@jit
def release(settings: Settings, engine: Engine, row: int) -> None:
    """Gives all blocks back."""
    for group in range(len(settings.windows)):
        give_back_before(settings, engine, row, group, engine.held[row])
    engine.held[row] = 0
    engine.keyed[row] = 0


@jit
def keep_in_order(engine: Engine, block: int, next_use: int) -> None:
    """Puts an idle block where its next use belongs in the free queue: the later the use, the nearer to the front.

    A block whose key another one got before is not kept: that one takes its place. Shared blocks stand at the back,
    and a block behind which the chain goes on is kept as long as the next one, so that prefixes are cut from their end.
    """
    key = engine.key[block]
    known = engine.first[key]
    if known != block:
        take_key(engine, block)
        link_after(engine, block, 0)
        if engine.held_by[known] > 0:
            return
        unlink(engine, known)
    engine.next_use[known] = next_use
    if engine.shared[key]:
        engine.next_use[known] = END
    elif engine.key_behind[key] != END:
        behind = engine.first[engine.key_behind[key]]
        if behind != END and engine.held_by[behind] == 0:
            engine.next_use[known] = min(next_use, engine.next_use[behind])
    place = engine.earlier[0]
    while place != 0 and engine.key[place] != END and engine.next_use[place] < engine.next_use[known]:
        place = engine.earlier[place]
    link_after(engine, known, place)


# ---- The host tier ----


@jit
def store(engine: Engine, key: int) -> None:
    """The key's block is the last used one of the host tier; what it has no room for, the longest unused, is lost."""
    counts, later, earlier = engine.counts, engine.stored_later, engine.stored_earlier
    place = key + 1
    if later[place] != END:
        forget_stored(engine, place)
    earlier[place] = earlier[0]
    later[place] = 0
    later[earlier[place]] = place
    earlier[0] = place
    counts[STORED] += 1
    if counts[STORED] > engine.plan.host_blocks:
        forget_stored(engine, later[0])


@jit
def forget_stored(engine: Engine, place: int) -> None:
    """Takes a key out of the host tier."""
    later, earlier = engine.stored_later, engine.stored_earlier
    later[earlier[place]] = later[place]
    earlier[later[place]] = earlier[place]
    later[place] = END
    engine.counts[STORED] -= 1


@jit
def store_blocks(contexts: Contexts, engine: Engine, row: int, first: int, end: int) -> None:
    """Stores blocks of a row's context, the last first, so that prefixes are cut from their end."""
    for block in range(end - 1, first - 1, -1):
        store(engine, key_of(contexts, row, block))


@jit
def stored_hits(settings: Settings, contexts: Contexts, engine: Engine, row: int, found: int) -> int:
    """How many blocks behind the first ``found`` the host tier can load; one token is left to compute."""
    if engine.plan.host == NO_HOST:
        return 0
    most = (contexts.prompt[row] + engine.generated[row] - 1) // settings.block_size
    for block in range(found, most):
        if engine.stored_later[key_of(contexts, row, block) + 1] == END:
            return block - found
    return int(most - found)


@jit
def load(engine: Engine, row: int, blocks: int, now_ns: int) -> None:
    """The link brings the row's blocks when it has brought all that were asked for before."""
    engine.counts[LINK_NS] = max(engine.counts[LINK_NS], now_ns) + blocks * engine.plan.load_ns
    engine.ready_ns[row] = engine.counts[LINK_NS]


# ---- Pauses ----


@jit
def wastes_least(settings: Settings, contexts: Contexts, engine: Engine, row: int) -> int:
    """What to do with a finished turn's blocks: FOREVER (hold them), SWAP or 0 (give them back); ties in this order.

    Waste is memory held idle x time: the turn's own for the pause; its own and that of all who run for the time of the
    recomputation; theirs for the way to the host tier and back.
    """
    plan = engine.plan
    own = engine.held[row]
    running = own
    for place in range(engine.counts[RUNNING]):
        other = engine.running[place]
        if engine.generated[other] < contexts.output[other]:
            running += engine.held[other]
    preserve = plan.pause_us[row] * own
    discard = plan.recompute_us[row] * running
    swap = 2 * plan.swap_us[row] * running
    if preserve <= discard and (preserve <= swap or plan.host != SWAP):
        return FOREVER
    return SWAP if plan.host == SWAP and swap <= discard else 0


@jit
def pause(settings: Settings, contexts: Contexts, engine: Engine, row: int, now_ns: int) -> None:
    """A finished turn's blocks are held on or given back, and stored in the host tier, as the plan says."""
    plan = engine.plan
    if len(plan.next_use_ns) > 0:
        engine.used_again[row] = FOREVER if plan.next_use_ns[row] == END else now_ns + plan.next_use_ns[row]
    hold_ns = plan.hold_ns[row] if len(plan.hold_ns) > 0 else 0
    swap = plan.host == WRITE_THROUGH
    if hold_ns > 0 and len(plan.pause_us) > 0:
        least = wastes_least(settings, contexts, engine, row)
        swap = least == SWAP
        hold_ns = hold_ns if least == FOREVER else 0
    if swap:
        store_blocks(contexts, engine, row, 0, engine.keyed[row])
    if hold_ns > 0:
        engine.held_until[row] = min(now_ns + hold_ns, FOREVER)
        engine.held_on[engine.counts[HELD_ON]] = row
        engine.counts[HELD_ON] += 1
    else:
        release(settings, engine, row)


@jit
def let_go(settings: Settings, engine: Engine, row: int) -> None:
    """Gives back what a finished turn still holds, if it does."""
    if len(engine.held_until) == 0 or engine.held_until[row] == END:
        return
    engine.held_until[row] = END
    kept = 0
    for place in range(engine.counts[HELD_ON]):
        if engine.held_on[place] != row:
            engine.held_on[kept] = engine.held_on[place]
            kept += 1
    engine.counts[HELD_ON] = kept
    release(settings, engine, row)


@jit
def first_held_on(engine: Engine) -> int:
    """Of the finished turns that still hold blocks the one to let go first: the end of its time, then its finish."""
    first = engine.held_on[0]
    for place in range(1, engine.counts[HELD_ON]):
        if engine.held_until[engine.held_on[place]] < engine.held_until[first]:
            first = engine.held_on[place]
    return int(first)


@jit
def next_event_ns(engine: Engine) -> int:
    """When blocks are loaded or held no longer, as of the last ``schedule``; END: nothing is to come by itself."""
    next_ns = FOREVER
    for place in range(engine.counts[HELD_ON]):
        next_ns = min(next_ns, engine.held_until[engine.held_on[place]])
    for place in range(engine.counts[RUNNING]):
        row = engine.running[place]
        if engine.ready_ns[row] != END:
            next_ns = min(next_ns, engine.ready_ns[row])
    return END if next_ns == FOREVER else int(next_ns)


# ---- The scheduler ----


@jit
def later_served(contexts: Contexts, engine: Engine, row: int, other: int) -> bool:
    """Whether priority scheduling serves ``row`` after ``other``."""
    if contexts.priority[row] != contexts.priority[other]:
        return bool(contexts.priority[row] > contexts.priority[other])
    return bool(engine.arrival[row] > engine.arrival[other])


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
def arrive(settings: Settings, contexts: Contexts, engine: Engine, row: int, now_ns: int) -> None:
    """A new request joins the waiting queue. What the turn above still holds then stays held until it is admitted."""
    above = contexts.above[row]
    if above >= 0 and len(engine.held_until) > 0 and engine.held_until[above] >= now_ns:
        engine.held_until[above] = AWAITED
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
    if engine.plan.host == WRITE_THROUGH:
        store_blocks(contexts, engine, victim, 0, engine.keyed[victim])
    if len(engine.used_again) > 0:
        engine.used_again[victim] = 0
    release(settings, engine, victim)
    engine.ready_ns[victim] = END
    engine.computed[victim] = 0
    engine.preemptions[victim] += 1
    engine.preempted[counts[PREEMPTED]] = victim
    counts[PREEMPTED] += 1
    enqueue(settings, contexts, engine, victim, 0)
    return int(place)


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
            return int(tokens)
    return 0


@jit
def add_to_step(engine: Engine, row: int, tokens: int) -> None:
    """The step computes so many tokens of the row."""
    place = engine.counts[SCHEDULED]
    engine.scheduled[place] = row
    engine.before[place] = engine.computed[row]
    engine.tokens[place] = tokens
    engine.computed[row] += tokens
    engine.counts[SCHEDULED] = place + 1


@jit
def schedule(settings: Settings, contexts: Contexts, engine: Engine, now_ns: int) -> None:
    """Decides what the next step computes: ``scheduled``, ``before``, ``tokens``, and who is ``preempted``.

    One step may be in flight; the tokens that it brings are not known yet, but that they come is.
    Turns held on yield in the order of their ends: when their time is over, before anyone is preempted, and when
    nothing runs and the head of the waiting queue does not fit.
    """
    counts = engine.counts
    counts[NOW_NS] = now_ns
    while counts[HELD_ON] > 0 and engine.held_until[first_held_on(engine)] <= now_ns:
        let_go(settings, engine, first_held_on(engine))
    size = settings.block_size
    if counts[SCHEDULED] > 0:
        ahead = counts[AHEAD] = counts[SCHEDULED]
        engine.scheduled_ahead[:ahead] = engine.scheduled[:ahead]
        engine.before_ahead[:ahead] = engine.before[:ahead]
        engine.tokens_ahead[:ahead] = engine.tokens[:ahead]
    counts[SCHEDULED] = 0
    counts[PREEMPTED] = 0
    budget = settings.max_num_batched_tokens
    longest = budget  # most tokens of one request
    if settings.long_prefill_token_threshold > 0 and counts[RUNNING] + counts[WAITING] > 1:
        longest = settings.long_prefill_token_threshold

    place = 0
    while place < counts[RUNNING] and budget > 0:
        row = engine.running[place]
        if engine.ready_ns[row] > now_ns:
            place += 1
            continue
        engine.ready_ns[row] = END
        computed = engine.computed[row]
        missing = contexts.prompt[row] + engine.generated[row] - computed
        if missing == 0:  # the step in flight brings a token
            if engine.generated[row] + 1 == contexts.output[row]:
                place += 1
                continue
            missing = 1
        count = min(missing, longest, budget)
        alive = True
        release_passed(settings, engine, row)
        while alive and new_blocks(settings, engine, row, computed + count) > counts[FREE]:
            if counts[HELD_ON] > 0:
                let_go(settings, engine, first_held_on(engine))
                continue
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
        stored = stored_hits(settings, contexts, engine, row, found)
        total = contexts.prompt[row] + engine.generated[row]
        count = min(total - found * size, longest) if stored == 0 else 0  # loading comes first
        if count > budget and not settings.enable_chunked_prefill:
            break
        count = min(count, budget)
        # Idle hits are counted as needed, since taking them shortens the free queue.
        needed = idle_hits(settings, contexts, engine, row, found)
        if counts[RUNNING] > 0:
            needed += settings.watermark_blocks
        cached = (found + stored) * size
        most = len(settings.windows) * (-(-(cached + count) // size) - found)
        if settings.scheduler_reserve_full_isl:
            most = max(most, reserved_blocks(settings, found, total))
        if needed + most > counts[FREE]:
            if counts[RUNNING] > 0 or counts[HELD_ON] == 0:
                break
            let_go(settings, engine, first_held_on(engine))
            continue
        counts[WAITING] -= 1
        remove(engine.waiting, counts[WAITING] + 1, 0)
        engine.running[counts[RUNNING]] = row
        counts[RUNNING] += 1
        touch(settings, contexts, engine, row, found)
        if contexts.above[row] >= 0:
            let_go(settings, engine, contexts.above[row])
        engine.computed[row] = cached
        if engine.cached[row] == END:
            engine.cached[row] = cached
            engine.loaded[row] = stored * size
            note_hittable(settings, contexts, engine, row)
        if stored > 0:
            store_blocks(contexts, engine, row, found, found + stored)
            take_blocks(settings, engine, row, cached)
            load(engine, row, stored, now_ns)
            continue
        allocate(settings, contexts, engine, row, cached + count)
        add_to_step(engine, row, count)
        budget -= count


@jit
def update(settings: Settings, contexts: Contexts, engine: Engine, now_ns: int) -> None:
    """The oldest step in flight ends: a token each for those that caught up (``sampled``), and who is ``finished``.

    Who has been preempted since gets the token where it waits.
    """
    counts = engine.counts
    counts[SAMPLED] = 0
    counts[FINISHED] = 0
    scheduled, before, tokens, count = engine.scheduled, engine.before, engine.tokens, counts[SCHEDULED]
    if counts[AHEAD] > 0:
        scheduled, before, tokens = engine.scheduled_ahead, engine.before_ahead, engine.tokens_ahead
        count = counts[AHEAD]
        counts[AHEAD] = 0
    else:
        counts[SCHEDULED] = 0
    for place in range(count):
        row = scheduled[place]
        if before[place] + tokens[place] == contexts.prompt[row] + engine.generated[row]:
            engine.generated[row] += 1
            engine.sampled[counts[SAMPLED]] = row
            counts[SAMPLED] += 1
            if engine.computed[row] > 0:
                give_keys(settings, contexts, engine, row, before[place] + tokens[place])
            if engine.generated[row] == contexts.output[row]:
                if engine.computed[row] > 0:
                    pause(settings, contexts, engine, row, now_ns)
                engine.finished[counts[FINISHED]] = row
                counts[FINISHED] += 1
    if counts[FINISHED] > 0:
        counts[RUNNING] = unfinished(contexts, engine, engine.running, counts[RUNNING])
        counts[WAITING] = unfinished(contexts, engine, engine.waiting, counts[WAITING])


@jit
def unfinished(contexts: Contexts, engine: Engine, rows: Ints, count: int) -> int:
    """Takes the finished out of the first ``count`` rows; returns how many are left."""
    kept = 0
    for place in range(count):
        row = rows[place]
        if engine.generated[row] < contexts.output[row]:
            rows[kept] = row
            kept += 1
    return kept


# ---- Time ----


class Workload(NamedTuple):
    """When turns come: a row's pause begins when the last of what it needs is there."""

    start_ns: Ints  # by trajectory, END: it starts when another one ends
    refill: int  # whenever so many trajectories have ended, as many of those that wait for it start
    trajectory: Ints
    offset_ns: Ints  # of roots: from their trajectory's start
    pause_ns: Ints
    needs: Ints  # how many finishes, and for roots that wait for others their trajectory's start; 0: no pause
    dependants: Ints  # the rows that wait for row r: dependants[dependants_start[r] : dependants_start[r + 1]]
    dependants_start: Ints
    roots: Ints  # likewise by trajectory: the rows that come at their own time
    roots_start: Ints
    refused: Ints  # 1: the turn is not served, and ends where it begins


# Which replica a turn goes to.
ROUND_ROBIN, LEAST_LOADED, STICKY, PREFIX_AWARE = range(4)


class Fleet(NamedTuple):
    """Replicas of one engine behind a router."""

    replicas: int
    router: int


class Timeline(NamedTuple):
    """Blocks in use over time, in bins of ``bin_ns`` (0: not asked for), by replica.

    Bin b of replica r has ``partial[r, b] + bin_ns * sum(level[r, : b + 1])`` block-nanoseconds.
    """

    bin_ns: int
    level: Ints
    partial: Ints


class Served(NamedTuple):
    """What became of each row, all END where it was refused but for ``release_ns`` and ``finish_ns``."""

    release_ns: Ints
    scheduled_ns: Ints
    first_token_ns: Ints
    finish_ns: Ints
    recompute_ns: Ints
    gpu_ns: Ints
    held_block_ns: Ints
    cached_tokens: Ints
    loaded_tokens: Ints  # of the cached ones those that came from the host tier
    hittable_tokens: Ints  # what cached_tokens would be, had nothing been evicted
    preemptions: Ints
    replica: Ints


#: The columns of a replica's totals.
REPLICA_TOTALS = ("steps", "busy_ns", "end_ns", "evicted_blocks", "preemptions", "peak_blocks")


@jit
def capped_sum(start: int, count: int, cap: int) -> int:
    """Sum over k = 1..count of min(start + k, cap)."""
    below = 0 if start >= cap else min(cap - start, count)
    return below * start + below * (below + 1) // 2 + (count - below) * cap


@jit
def chunk_units(law: StepLaw, before: int, count: int) -> int:
    """Attention of ``count`` prompt tokens after ``before`` ones: pairs and context read, each capped at the window."""
    units = law.full.pair * (count * before + count * (count + 1) // 2) + law.full.context * (before + count)
    if law.window > 0:
        units += law.windowed.pair * capped_sum(before, count, law.window)
        units += law.windowed.context * min(before + count, law.window + count)
    return units


@jit
def step_units(law: StepLaw, contexts: Contexts, engine: Engine) -> tuple[int, int, int]:
    """Time of the scheduled step, its tokens, and how many sequences decode in it.

    A sequence decodes if the one token computed of it was generated.
    """
    count = engine.counts[SCHEDULED]
    units = 0
    tokens = 0
    decoding = 0
    seen = 0
    seen_in_window = 0
    for place in range(count):
        before = engine.before[place]
        new = engine.tokens[place]
        tokens += new
        if new == 1 and before >= contexts.prompt[engine.scheduled[place]]:
            decoding += 1
            seen += before + 1
            seen_in_window += min(before + 1, law.window)
        else:
            units += chunk_units(law, before, new)
    units += law.step[tokens] + law.sequences[count]
    if decoding == count:
        units += law.full.decode[decoding] * seen + law.windowed.decode[decoding] * seen_in_window
    else:
        units += law.full.mixed[decoding] * (seen + law.tile_keys * decoding)
        units += law.windowed.mixed[decoding] * (seen_in_window + law.tile_keys * decoding)
    return units, tokens, decoding


@jit
def recompute_units(law: StepLaw, before: int, count: int, hittable: int, tokens: int, sequences: int) -> int:
    """How much shorter a step would be without the part of a chunk that was in the cache once."""
    again = min(before + count, hittable) - before
    if again <= 0:
        return 0
    units = law.step[tokens] - law.step[tokens - again] + chunk_units(law, before, count)
    if again < count:
        units -= chunk_units(law, before + again, count - again)
    else:
        units += law.sequences[sequences] - law.sequences[sequences - 1]
    return int(max(units, 0))


@jit
def share_out(gpu_ns: Ints, rows: Ints, count: int, duration_ns: int) -> None:
    """Shares a time equally; the first gets what is left over."""
    if count > 0:
        for place in range(count):
            gpu_ns[rows[place]] += duration_ns // count
        gpu_ns[rows[0]] += duration_ns % count


@jit
def meet_need(workload: Workload, needs: Ints, ready: Ints, events: Any, row: int, now_ns: int) -> None:
    """One of the things that the row waits for is there; after the last one its pause begins."""
    needs[row] -= 1
    ready[row] = max(ready[row], now_ns)
    if needs[row] == 0:
        heapq.heappush(events, (ready[row] + workload.pause_ns[row], row))


@jit
def start(workload: Workload, needs: Ints, ready: Ints, events: Any, trajectory: int, now_ns: int) -> None:
    """The trajectory begins."""
    for at in range(workload.roots_start[trajectory], workload.roots_start[trajectory + 1]):
        row = workload.roots[at]
        due_ns = now_ns + workload.offset_ns[row]
        if needs[row] == 0:
            heapq.heappush(events, (due_ns, row))
        else:
            meet_need(workload, needs, ready, events, row, due_ns)


@jit
def start_next(workload: Workload, needs: Ints, ready: Ints, left: Ints, events: Any, now_ns: int) -> bool:
    """Starts the first trajectory that waits for another one's end; says whether there was one."""
    trajectories = len(workload.start_ns)
    following = left[trajectories]
    while following < trajectories and workload.start_ns[following] != END:
        following += 1
    left[trajectories] = following + 1
    if following >= trajectories:
        return False
    start(workload, needs, ready, events, following, now_ns)
    return True


@jit
def finish(workload: Workload, needs: Ints, ready: Ints, left: Ints, events: Any, row: int, now_ns: int) -> None:
    """Releases what waited for the row, and starts the next trajectories if this was the last row of its own.

    ``left[t]`` counts unfinished rows of trajectory t; then come the next trajectory to start, and how many ended.
    """
    for at in range(workload.dependants_start[row], workload.dependants_start[row + 1]):
        meet_need(workload, needs, ready, events, workload.dependants[at], now_ns)
    left[workload.trajectory[row]] -= 1
    if left[workload.trajectory[row]] == 0:
        ended = len(workload.start_ns) + 1
        left[ended] += 1
        if left[ended] % workload.refill == 0:
            for _ in range(workload.refill):
                start_next(workload, needs, ready, left, events, now_ns)


# ---- Replicas ----


class Clocks(NamedTuple):
    """The time of each replica, and who shares its decode stretch under way."""

    now_ns: Ints  # end of its last step
    fraction: Ints  # of a nanosecond, in units
    ends_ns: Ints  # of the step under way, END: none
    wakes_ns: Ints  # when the next step may start that could not yet: blocks are being loaded; END: none is awaited
    waits_ns: Ints  # since when, END: it does not
    used: Ints  # blocks in use, as last noted
    sharers: Ints  # (replicas, rows)
    sharing: Ints
    shared_ns: Ints


@jit
def load_of(contexts: Contexts, settings: Settings, engine: Engine, router: int, row: int) -> int:
    """What the router minimises: unfinished requests, or their prompts' blocks and those that ``row`` would miss."""
    counts = engine.counts
    if router != PREFIX_AWARE:
        return int(counts[RUNNING] + counts[WAITING])
    blocks = -(-contexts.prompt[row] // settings.block_size) - hits(settings, contexts, engine, row)
    for place in range(counts[RUNNING]):
        blocks += -(-contexts.prompt[engine.running[place]] // settings.block_size)
    for place in range(counts[WAITING]):
        blocks += -(-contexts.prompt[engine.waiting[place]] // settings.block_size)
    return int(blocks)


@jit
def route(
    settings: Settings, contexts: Contexts, fleet: Fleet, engines: Any, homes: Ints, trajectory: int, row: int
) -> int:
    """The replica for a turn; the first of equals. ``homes`` has that of each trajectory, then the next in turn."""
    if fleet.router == ROUND_ROBIN:
        homes[-1] += 1
        return int((homes[-1] - 1) % fleet.replicas)
    if fleet.router == STICKY and homes[trajectory] != END:
        return int(homes[trajectory])
    best = 0
    least = load_of(contexts, settings, engines[0], fleet.router, row)
    for replica in range(1, fleet.replicas):
        load = load_of(contexts, settings, engines[replica], fleet.router, row)
        if load < least:
            best = replica
            least = load
    homes[trajectory] = best
    return best


@jit
def note_blocks(timeline: Timeline, replica: int, at_ns: int, blocks: int) -> None:
    """From that instant on, so many more blocks are in use."""
    if timeline.bin_ns > 0 and blocks != 0:
        place = at_ns // timeline.bin_ns
        timeline.partial[replica, place] += blocks * ((place + 1) * timeline.bin_ns - at_ns)
        if place + 1 < timeline.level.shape[1]:
            timeline.level[replica, place + 1] += blocks


@jit
def note_use(settings: Settings, timeline: Timeline, engine: Engine, clocks: Clocks, replica: int, at_ns: int) -> None:
    """Notes what has become of the blocks in use."""
    used = settings.num_gpu_blocks - 1 - engine.counts[FREE]
    note_blocks(timeline, replica, at_ns, used - clocks.used[replica])
    clocks.used[replica] = used


@jit
def note_held(engine: Engine, served: Served, duration_ns: int) -> None:
    """All that run have held their blocks for so long."""
    for place in range(engine.counts[RUNNING]):
        row = engine.running[place]
        served.held_block_ns[row] += engine.in_use[row] * duration_ns


@jit
def share_step(
    settings: Settings, engine: Engine, clocks: Clocks, served: Served, replica: int, step: tuple[int, int, int]
) -> None:
    """Shares a step's ``(duration, tokens, decoding)`` by tokens; decode steps of the same requests are one."""
    duration_ns, tokens, decoding = step
    count = engine.counts[SCHEDULED]
    sharers = clocks.sharers[replica]
    same = decoding == count and count == clocks.sharing[replica]
    for place in range(count):
        same = same and sharers[place] == engine.scheduled[place]
    if not same:
        share_out(served.gpu_ns, sharers, clocks.sharing[replica], clocks.shared_ns[replica])
        clocks.sharing[replica] = 0
        clocks.shared_ns[replica] = 0
    if decoding == count:
        clocks.sharing[replica] = count
        sharers[:count] = engine.scheduled[:count]
        clocks.shared_ns[replica] += duration_ns
    else:
        rest_ns = duration_ns
        for place in range(count):
            share_ns = duration_ns * engine.tokens[place] // tokens
            served.gpu_ns[engine.scheduled[place]] += share_ns
            rest_ns -= share_ns
        served.gpu_ns[engine.scheduled[0]] += rest_ns


@jit
def begin_step(
    settings: Settings,
    law: StepLaw,
    contexts: Contexts,
    timeline: Timeline,
    engine: Engine,
    clocks: Clocks,
    served: Served,
    again_units: Ints,
    totals: Ints,
    replica: int,
    at_ns: int,
) -> None:
    """Starts the replica's next step at that instant, if there is anything that can run.

    With asynchronous scheduling that step has been decided on when the one before it started, unless the replica was
    idle then; and the one after it is decided on now.
    """
    counts = engine.counts
    if clocks.waits_ns[replica] != END:
        note_held(engine, served, at_ns - clocks.waits_ns[replica])
    clocks.waits_ns[replica] = END
    clocks.wakes_ns[replica] = END
    if counts[SCHEDULED] == 0:
        schedule(settings, contexts, engine, at_ns)
        while counts[SCHEDULED] == 0 and counts[PREEMPTED] > 0:
            schedule(settings, contexts, engine, at_ns)  # the only one that could run preempted itself: no time passes
    count = counts[SCHEDULED]
    if count == 0:
        note_use(settings, timeline, engine, clocks, replica, at_ns)
        clocks.waits_ns[replica] = at_ns
        clocks.wakes_ns[replica] = next_event_ns(engine)
        return
    if clocks.now_ns[replica] < at_ns:
        clocks.fraction[replica] = 0
    units, tokens, decoding = step_units(law, contexts, engine)
    sum_units = clocks.fraction[replica] + units
    duration_ns = sum_units >> law.fraction_bits
    clocks.now_ns[replica] = at_ns + duration_ns
    clocks.ends_ns[replica] = at_ns + duration_ns
    clocks.fraction[replica] = sum_units & ((1 << law.fraction_bits) - 1)

    totals[replica, 0] += 1
    totals[replica, 1] += duration_ns
    share_step(settings, engine, clocks, served, replica, (duration_ns, tokens, decoding))
    for place in range(count):
        row = engine.scheduled[place]
        if served.scheduled_ns[row] == END:
            served.scheduled_ns[row] = at_ns
        if engine.generated[row] == 0:
            again_units[row] += recompute_units(
                law, engine.before[place], engine.tokens[place], engine.hittable[row], tokens, count
            )

    if settings.async_scheduling:
        schedule(settings, contexts, engine, at_ns)
    note_use(settings, timeline, engine, clocks, replica, at_ns)
    totals[replica, 5] = max(totals[replica, 5], clocks.used[replica])
    note_held(engine, served, duration_ns)


@jit
def end_step(
    settings: Settings,
    law: StepLaw,
    contexts: Contexts,
    engine: Engine,
    served: Served,
    again_units: Ints,
    now_ns: int,
) -> None:
    """Ends the step under way: first tokens and the columns of those that finished."""
    unit = 1 << law.fraction_bits
    update(settings, contexts, engine, now_ns)
    for place in range(engine.counts[SAMPLED]):
        row = engine.sampled[place]
        if served.first_token_ns[row] == END:
            served.first_token_ns[row] = now_ns
            prefill_ns = now_ns - served.scheduled_ns[row]
            served.recompute_ns[row] = min((again_units[row] + unit // 2) >> law.fraction_bits, prefill_ns)
    for place in range(engine.counts[FINISHED]):
        row = engine.finished[place]
        served.finish_ns[row] = now_ns
        served.cached_tokens[row] = engine.cached[row]
        served.loaded_tokens[row] = engine.loaded[row]
        served.hittable_tokens[row] = engine.hittable[row]
        served.preemptions[row] = engine.preemptions[row]


@jit
def simulate(
    settings: Settings,
    law: StepLaw,
    contexts: Contexts,
    workload: Workload,
    plan: Plan,
    fleet: Fleet,
    timeline: Timeline,
    served: Served,
    totals: Ints,
    log: Ints,
    logged: Ints,
) -> None:
    """Serves all rows, step by step.

    Clocks run in units; a timestamp is its whole nanoseconds. At one instant steps end first, replica by replica;
    then turns come, in the order in which they were due and of their rows; then free replicas start their next step.
    A step's time is shared among its requests by tokens. Consecutive steps of a replica that decode one token of the
    same requests are shared as one. ``totals`` has a row for each replica, and so has ``log`` (replicas, entries, 4)
    for what each evicts; without entries none is kept. ``logged`` (replicas,) says how many there are.
    """
    rows = len(contexts.prompt)
    trajectories = len(workload.start_ns)
    engines = [new_engine(settings, contexts, plan, log[0])]
    for replica in range(1, fleet.replicas):
        engines.append(new_engine(settings, contexts, plan, log[replica]))
    clocks = Clocks(
        now_ns=np.zeros(fleet.replicas, np.int64),
        fraction=np.zeros(fleet.replicas, np.int64),
        ends_ns=np.full(fleet.replicas, END, np.int64),
        wakes_ns=np.full(fleet.replicas, END, np.int64),
        waits_ns=np.full(fleet.replicas, END, np.int64),
        used=np.zeros(fleet.replicas, np.int64),
        sharers=np.zeros((fleet.replicas, rows), np.int64),
        sharing=np.zeros(fleet.replicas, np.int64),
        shared_ns=np.zeros(fleet.replicas, np.int64),
    )
    homes = np.full(trajectories + 1, END, np.int64)
    homes[-1] = 0
    again_units = np.zeros(rows, np.int64)
    needs = workload.needs.copy()
    ready = np.zeros(rows, np.int64)
    left = np.zeros(trajectories + 2, np.int64)
    for row in range(rows):
        left[workload.trajectory[row]] += 1
    events = [(workload.start_ns[0], workload.roots[0])]
    events.pop()
    for trajectory in range(trajectories):
        if workload.start_ns[trajectory] != END:
            start(workload, needs, ready, events, trajectory, workload.start_ns[trajectory])
    for column in served:
        column[:] = END
    served.gpu_ns[:] = 0
    served.held_block_ns[:] = 0
    totals[:] = 0

    now_ns = 0
    while True:
        next_ns = END
        if len(events) > 0:
            next_ns = events[0][0]
        for replica in range(fleet.replicas):
            ends_ns = clocks.ends_ns[replica]
            if ends_ns == END:
                ends_ns = clocks.wakes_ns[replica]
            if ends_ns != END and (next_ns == END or ends_ns < next_ns):
                next_ns = ends_ns
        if next_ns == END:
            if start_next(workload, needs, ready, left, events, now_ns):
                continue
            break
        now_ns = next_ns
        for replica in range(fleet.replicas):
            if clocks.ends_ns[replica] == now_ns:
                engine = engines[replica]
                clocks.ends_ns[replica] = END
                end_step(settings, law, contexts, engine, served, again_units, now_ns)
                note_use(settings, timeline, engine, clocks, replica, now_ns)
                for place in range(engine.counts[FINISHED]):
                    finish(workload, needs, ready, left, events, engine.finished[place], now_ns)
        while len(events) > 0 and events[0][0] <= now_ns:
            due_ns, row = heapq.heappop(events)
            served.release_ns[row] = due_ns
            if workload.refused[row]:
                served.finish_ns[row] = due_ns
                finish(workload, needs, ready, left, events, row, due_ns)
            else:
                replica = route(settings, contexts, fleet, engines, homes, workload.trajectory[row], row)
                served.replica[row] = replica
                arrive(settings, contexts, engines[replica], row, due_ns)
        for replica in range(fleet.replicas):
            engine = engines[replica]
            if clocks.ends_ns[replica] == END and engine.counts[RUNNING] + engine.counts[WAITING] > 0:
                begin_step(
                    settings,
                    law,
                    contexts,
                    timeline,
                    engine,
                    clocks,
                    served,
                    again_units,
                    totals,
                    replica,
                    now_ns,
                )
    for replica in range(fleet.replicas):
        share_out(served.gpu_ns, clocks.sharers[replica], clocks.sharing[replica], clocks.shared_ns[replica])
        totals[replica, 2] = clocks.now_ns[replica]
        totals[replica, 3] = engines[replica].counts[EVICTED]
        totals[replica, 4] = np.sum(engines[replica].preemptions)
        logged[replica] = engines[replica].counts[LOGGED]
