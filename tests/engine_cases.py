"""Workloads that every engine must serve alike: a fixed list, and a Hypothesis strategy for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from kvsim.backends.contexts import contexts_of
from kvsim.backends.engine_kernels import (
    DROP,
    END,
    FOREVER,
    LEAST_LOADED,
    LRU,
    NO_CACHE,
    NO_COLUMN,
    NO_HOST,
    NO_PLAN,
    ON_EVICTION,
    PREFIX_AWARE,
    ROUND_ROBIN,
    STICKY,
    SWAP,
    WRITE_THROUGH,
    Contexts,
    Fleet,
    GroupLaw,
    Plan,
    Settings,
    StepLaw,
    Timeline,
    Workload,
)
from kvsim.backends.serving import ALONE, timeline_of
from kvsim.backends.workload import Starts, batch_starts, closed_starts, poisson_starts, workload_of
from kvsim.retention.pauses import extended
from kvsim.trajectory import Batch

SETTINGS = Settings(
    block_size=4,
    num_gpu_blocks=101,
    max_num_batched_tokens=64,
    max_num_seqs=16,
    long_prefill_token_threshold=0,
    watermark_blocks=0,
    scheduler_reserve_full_isl=1,
    enable_chunked_prefill=1,
    priority=0,
    retention=LRU,
    async_scheduling=0,
)


LOGGED = Starts()


class Case(NamedTuple):
    """What a simulation takes."""

    settings: Settings
    law: StepLaw
    contexts: Contexts
    workload: Workload
    plan: Plan
    fleet: Fleet
    timeline: Timeline


def turns(rows: list[dict[str, Any]], **columns: Any) -> Batch:
    """A batch from rows; by default each is a trajectory of its own that comes at 0."""
    defaults = {"parent": -1, "after": None, "kept_tokens": 0, "prompt_tokens": 1, "output_tokens": 1}
    defaults |= {"pause_ns": 0, "arrival_ns": 0, "prefix": -1, "priority": 0, "trajectory": None}
    full = [{**defaults, **row} for row in rows]
    for number, row in enumerate(full):
        if row["after"] is None:
            row["after"] = row["parent"]
        if row["trajectory"] is None:
            row["trajectory"] = full[row["after"]]["trajectory"] if row["after"] >= 0 else number
    renumbered = np.unique([row["trajectory"] for row in full], return_inverse=True)[1]
    given = {name: [row[name] for row in full] for name in defaults} | {"trajectory": renumbered} | columns
    return Batch.from_columns(**given, prefix_names=["a", "b"])


def simple_law(settings: Settings, *, window: int = 0) -> StepLaw:
    """1 us a step, 10 ns a token, 3 ns a sequence, 1 ns for a token of decode context, in quarters of a nanosecond."""
    tokens = np.arange(settings.max_num_batched_tokens + 1)
    step = np.where(tokens > 0, 4000 + 40 * tokens, 0)
    sequences = 12 * np.arange(settings.max_num_seqs + 1)
    decode = np.where(np.arange(settings.max_num_seqs + 1) > 0, 4, 0)
    full = GroupLaw(1, 2, decode, decode)
    windowed = full if window else GroupLaw(0, 0, 0 * decode, 0 * decode)
    return StepLaw(2, step, sequences, window, 0, full, windowed)


def case(
    batch: Batch,
    starts: Starts = LOGGED,
    *,
    window: int = 0,
    windows: Sequence[int] = (0,),
    fleet: Fleet = ALONE,
    plan: Plan = NO_PLAN,
    **changes: int,
) -> Case:
    """A case with the settings above, but for ``changes``; ``window`` is the law's, ``windows`` those of KV groups."""
    settings = SETTINGS._replace(windows=np.array(windows), **changes)
    workload = workload_of(batch, starts, np.zeros(batch.turns, np.int64))
    contexts = contexts_of(batch, settings.block_size)
    law = simple_law(settings, window=window)
    return Case(settings, law, contexts, workload, plan, fleet, timeline_of(fleet.replicas))


def session(lengths: list[tuple[int, int]], pause_ns: int = 500, first: int = 0) -> list[dict[str, Any]]:
    """Rows of one session: (new tokens, output tokens) a turn; ``first`` is the number of its first row."""
    rows: list[dict[str, Any]] = []
    context = 0
    for turn, (new, output) in enumerate(lengths):
        parent = first + turn - 1 if turn else -1
        rows.append(
            {
                "parent": parent,
                "kept_tokens": context,
                "prompt_tokens": context + new,
                "output_tokens": output,
                "pause_ns": pause_ns if turn else 0,
            }
        )
        context += new + output
    return rows


def sessions(count: int, lengths: list[tuple[int, int]]) -> Batch:
    return turns([row for number in range(count) for row in session(lengths, first=number * len(lengths))])


def cases() -> dict[str, Case]:
    """By name, each with synchronous and with asynchronous scheduling."""
    talk = [(30, 9), (11, 5), (8, 20), (17, 3)]
    forks = [{"prompt_tokens": 41, "output_tokens": 7}]
    forks += [{"parent": 0, "kept_tokens": kept, "prompt_tokens": 60, "output_tokens": 9} for kept in (48, 48, 47, 40)]
    group = [{"prefix": 0, "kept_tokens": 33, "prompt_tokens": 70, "output_tokens": out} for out in (5, 9, 13, 30)]
    long = [{"prompt_tokens": 4 * count, "output_tokens": 6} for count in (40, 30, 20, 10)]
    ranked = [{**row, "priority": -number} for number, row in enumerate(session(talk) + session(talk, first=4) + long)]
    thrash = sessions(8, talk)
    goes_on = extended(thrash)
    pinned = NO_PLAN._replace(hold_ns=np.where(goes_on, FOREVER, 0))
    for_a_while = NO_PLAN._replace(hold_ns=np.where(goes_on, 300 * np.arange(32), 0))
    ordered = NO_PLAN._replace(next_use_ns=np.where(goes_on, 90 * (np.arange(32) % 7), END))
    hosted = NO_PLAN._replace(host=WRITE_THROUGH, host_blocks=60, load_ns=400)
    weighed = pinned._replace(host=SWAP, host_blocks=60, load_ns=400)
    costs = {"pause_us": np.arange(32) % 5, "recompute_us": np.arange(32) % 4, "swap_us": np.arange(32) % 3}
    hybrid = (0, 13, 13)
    instant = [{"prompt_tokens": 9, "output_tokens": 3, "arrival_ns": 7000} for _ in range(3)]
    named = {
        "one turn": case(turns([{"prompt_tokens": 10, "output_tokens": 300}])),
        "nothing generated": case(turns([{"prompt_tokens": 8, "output_tokens": 0}])),
        "a session": case(turns(session(talk))),
        "no pressure": case(sessions(3, talk)),
        "thrash": case(sessions(8, talk), num_gpu_blocks=40),
        "pinned": case(thrash, num_gpu_blocks=40, plan=pinned),
        "pinned on replicas": case(thrash, num_gpu_blocks=40, plan=pinned, fleet=Fleet(2, ROUND_ROBIN)),
        "held for a while": case(thrash, num_gpu_blocks=40, plan=for_a_while),
        "held at priority": case(
            turns(ranked), priority=1, num_gpu_blocks=45, plan=NO_PLAN._replace(hold_ns=np.arange(12) * 2000)
        ),
        "ordered": case(thrash, num_gpu_blocks=40, plan=ordered),
        "ordered forks": case(turns(forks), num_gpu_blocks=26, plan=NO_PLAN._replace(next_use_ns=np.arange(5) * 100)),
        "host tier": case(thrash, num_gpu_blocks=40, plan=hosted),
        "host tier, stored on eviction": case(thrash, num_gpu_blocks=40, plan=hosted._replace(host=ON_EVICTION)),
        "host tier on replicas": case(thrash, num_gpu_blocks=40, plan=hosted, fleet=Fleet(3, LEAST_LOADED)),
        "least waste": case(thrash, num_gpu_blocks=40, plan=weighed._replace(**costs)),
        "closed loop": case(sessions(8, talk), closed_starts(8, 3), num_gpu_blocks=60),
        "poisson": case(sessions(8, talk), poisson_starts(8, 1e5, 3)),
        "batch by batch": case(sessions(8, talk), batch_starts(8, 3), num_gpu_blocks=60),
        "starts one after the other": case(sessions(8, talk), closed_starts(8, 3, 20_000), num_gpu_blocks=60),
        "round robin": case(sessions(8, talk), closed_starts(8, 6), num_gpu_blocks=40, fleet=Fleet(3, ROUND_ROBIN)),
        "least loaded": case(sessions(8, talk), closed_starts(8, 6), num_gpu_blocks=40, fleet=Fleet(3, LEAST_LOADED)),
        "sticky": case(sessions(8, talk), closed_starts(8, 6), num_gpu_blocks=40, fleet=Fleet(3, STICKY)),
        "prefix-aware": case(sessions(8, talk), closed_starts(8, 6), num_gpu_blocks=40, fleet=Fleet(3, PREFIX_AWARE)),
        "forks": case(turns(forks)),
        "forks in little memory": case(turns(forks), num_gpu_blocks=22),
        "rollouts of one prompt": case(turns(group)),
        "rollouts, prompt in chunks": case(turns(group), max_num_batched_tokens=16),
        "whole blocks cached": case(turns([{"prompt_tokens": 40}, *session([(40, 8), (16, 8), (8, 8)], first=1)])),
        "two events at one instant": case(turns(instant)),
        "arrivals at a step's end": case(turns([{"prompt_tokens": 5, "output_tokens": 50}, *instant])),
        "priority": case(turns(ranked), priority=1, num_gpu_blocks=45),
        "threshold": case(sessions(3, talk), long_prefill_token_threshold=6),
        "watermark": case(sessions(6, talk), watermark_blocks=5, num_gpu_blocks=50),
        "no gate": case(turns(long), scheduler_reserve_full_isl=0, num_gpu_blocks=60, max_num_batched_tokens=32),
        "more sequences than tokens": case(sessions(6, talk), max_num_batched_tokens=3),
        "one at a time": case(sessions(3, talk), max_num_seqs=1),
        "no cache": case(sessions(3, talk), retention=NO_CACHE),
        "dropped at once": case(turns(forks + session(talk, first=5)), retention=DROP),
        "sliding window": case(sessions(3, talk), window=37),
        "one window group": case(sessions(3, talk), window=13, windows=(13,)),
        "one window group, thrash": case(sessions(8, talk), windows=(30,), num_gpu_blocks=30),
        "full and window groups": case(sessions(3, talk), windows=hybrid, num_gpu_blocks=301),
        "full and window groups, closed loop": case(
            sessions(8, talk), closed_starts(8, 3), windows=hybrid[::-1], num_gpu_blocks=120
        ),
        "full and window groups, thrash": case(sessions(8, talk), windows=hybrid, num_gpu_blocks=90),
        "window groups, prompt in chunks": case(turns(group), windows=hybrid, max_num_batched_tokens=16),
        "window groups, forks": case(turns(forks), windows=(9, 0, 30)),
        "window groups, forks in little memory": case(turns(forks), windows=(9, 0, 30), num_gpu_blocks=60),
        "window groups by priority": case(turns(ranked), priority=1, windows=hybrid, num_gpu_blocks=110),
        "window groups, no cache": case(sessions(3, talk), windows=hybrid, retention=NO_CACHE, num_gpu_blocks=150),
        "window groups, dropped at once": case(
            turns(forks + session(talk, first=5)), windows=hybrid, retention=DROP, num_gpu_blocks=150
        ),
        "window groups, prefix-aware": case(
            sessions(8, talk), closed_starts(8, 6), windows=hybrid, num_gpu_blocks=90, fleet=Fleet(3, PREFIX_AWARE)
        ),
        "window groups, long decoding": case(
            turns([{"prompt_tokens": 30, "output_tokens": 200}] * 3), windows=(0, 9), num_gpu_blocks=150
        ),
    }
    ahead = {
        f"{name}, async": one._replace(settings=one.settings._replace(async_scheduling=1))
        for name, one in named.items()
    }
    return named | ahead


def draw_batch(random: Random, size: int) -> Batch:
    """Any prefix tree, with joins, shared prefixes, and turns that come at their own time or after others."""
    rows: list[dict[str, Any]] = []
    waits = []
    scale = random.choice([10, 10**4, 10**6])
    for number in range(random.randrange(1, 30)):
        parent = random.randrange(number) if number and random.random() < 0.75 else -1
        prefix, kept = -1, 0
        if parent >= 0:
            length = rows[parent]["prompt_tokens"] + rows[parent]["output_tokens"]
            choices = [length, length, max(length - 1, 0), random.randrange(length + 1), length // size * size]
            kept = random.choice([*choices, rows[parent]["prompt_tokens"]])
        elif random.random() < 0.6:
            prefix, kept = random.randrange(2), random.randrange(5 * size)
        new = random.choice([0, 1, size, size - kept % size, random.randrange(3 * size), random.randrange(10 * size)])
        after = -1
        if number and random.random() < 0.85:
            after = parent if parent >= 0 and random.random() < 0.9 else random.randrange(number)
        rows.append(
            {
                "parent": parent,
                "after": after,
                "kept_tokens": kept,
                "prefix": prefix,
                "prompt_tokens": max(1, kept + new),
                "output_tokens": random.choice([0, 1, 2, random.randrange(1, 4 * size)]),
                "priority": random.randrange(3),
                "pause_ns": random.choice([0, random.randrange(scale)]),
                "arrival_ns": random.choice([0, random.randrange(5 * scale)]),
            }
        )
        waits.append([random.randrange(number)] if number and random.random() < 0.1 else [])
    return turns(rows, waits_for=waits)


def draw_windows(random: Random) -> list[int]:
    """Full attention alone, a window alone, or any mixture."""
    if random.random() < 0.4:
        return [0]
    choices = [0, 0, 2, 7, random.randrange(2, 60), random.randrange(2, 200)]
    return [random.choice(choices) for _ in range(random.choice([1, 1, 2, 3, 5]))]


def draw_settings(random: Random, batch: Batch, size: int) -> Settings:
    """Settings under which every turn fits, most of them with little memory."""
    longest = batch.prompt_tokens + np.maximum(batch.output_tokens, 1) - 1
    blocks = int((-(-longest // size)).max())
    tokens = random.choice([size, 2 * size + 1, 64, 512])
    windows = draw_windows(random)
    needed = sum(min(blocks, -(-(window - 1 + 2 * tokens) // size) + 1) if window else blocks for window in windows)
    return Settings(
        block_size=size,
        num_gpu_blocks=needed + 1 + random.randrange(needed + 2 * batch.turns),
        max_num_batched_tokens=tokens,
        max_num_seqs=random.choice([1, 2, 4, 64]),
        long_prefill_token_threshold=random.choice([0, 0, size, 5]),
        watermark_blocks=random.choice([0, 0, 1, 3]),
        scheduler_reserve_full_isl=random.randrange(2),
        enable_chunked_prefill=1,
        priority=random.randrange(2),
        retention=random.choice([LRU, LRU, LRU, LRU, DROP, NO_CACHE]),
        async_scheduling=random.randrange(2),
        windows=np.array(windows),
    )


def draw_law(random: Random, settings: Settings) -> StepLaw:
    """Any law, smooth or not."""
    unit = 1 << random.choice([0, 4, 10])

    def table(entries: int, most: int) -> Any:
        return np.array([0, *(random.randrange(1, most * unit) for _ in range(entries))], np.int64)

    def group(on: int) -> GroupLaw:
        return GroupLaw(
            on * random.randrange(3 * unit),
            on * random.randrange(9 * unit),
            on * table(settings.max_num_seqs, 30),
            on * table(settings.max_num_seqs, 50),
        )

    window = random.choice([0, 0, 7, 33, 100])
    step = table(settings.max_num_batched_tokens, 3000)
    sequences, tile_keys = table(settings.max_num_seqs, 50), random.choice([0, 1, 190])
    return StepLaw(unit.bit_length() - 1, step, sequences, window, tile_keys, group(1), group(window > 0))


def draw_plan(random: Random, rows: int) -> Plan:
    """Any mixture of mechanisms, most often one or none."""
    scale = random.choice([10, 10**4, 10**6])

    def column(*special: int) -> Any:
        return np.array([random.choice([*special, random.randrange(scale)]) for _ in range(rows)], np.int64)

    plan = NO_PLAN
    if random.random() < 0.4:
        plan = plan._replace(hold_ns=column(0, FOREVER, FOREVER))
    if random.random() < 0.4:
        plan = plan._replace(next_use_ns=column(END, 0))
    if random.random() < 0.4:
        host = random.choice([WRITE_THROUGH, ON_EVICTION, SWAP])
        plan = plan._replace(host=host, host_blocks=random.randrange(60), load_ns=random.choice([0, 7, scale]))
    if len(plan.hold_ns) and plan.host in (NO_HOST, SWAP) and random.random() < 0.7:
        plan = plan._replace(pause_us=column(0), recompute_us=column(0), swap_us=column(0))
    return plan


def draw_starts(random: Random, trajectories: int) -> Starts:
    some, stagger_ns = random.randrange(1, 4), random.choice([0, 5000])
    drawn: Starts = random.choice(
        [
            Starts(),
            closed_starts(trajectories, some, stagger_ns),
            batch_starts(trajectories, some, stagger_ns),
            poisson_starts(trajectories, 1e5, random.randrange(99)),
        ]
    )
    return drawn


POWERS_OF_TWO, OTHER_SIZES = (4, 8, 16), (3, 6, 12)


def draw_case(random: Random, sizes: tuple[int, ...] = POWERS_OF_TWO) -> Case:
    """One with blocks of one of the sizes."""
    size = random.choice(sizes)
    batch = draw_batch(random, size)
    settings = draw_settings(random, batch, size)
    refused = np.array([int(random.random() < 0.05) for _ in range(batch.turns)], np.int64)
    workload = workload_of(batch, draw_starts(random, len(batch)), refused)
    plan = NO_PLAN if settings.retention == NO_CACHE else draw_plan(random, batch.turns)
    if len(settings.windows) > 1 or settings.windows[0]:  # orders and host tiers are for one group of full attention
        plan = plan._replace(next_use_ns=NO_COLUMN, host=NO_HOST)
    fleet = Fleet(random.choice([1, 1, 2, 3]), random.choice([ROUND_ROBIN, LEAST_LOADED, STICKY, PREFIX_AWARE]))
    law = draw_law(random, settings)
    return Case(settings, law, contexts_of(batch, size), workload, plan, fleet, timeline_of(fleet.replicas))


any_case = st.builds(draw_case, st.randoms(use_true_random=False), st.sampled_from([POWERS_OF_TWO, OTHER_SIZES]))
