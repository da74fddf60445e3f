"""Batches and rates that every backend must price alike: a fixed list, and Hypothesis strategies for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from kvsim.backends import kernels
from kvsim.trajectory import Batch

Case = tuple[str, Batch]


def linear(turns: int, trajectories: int = 1, seed: int = 0) -> Batch:
    """Agent runs: each turn extends the one before by a tool's response, after a pause."""
    random = np.random.default_rng(seed)
    rows = turns * trajectories
    number = np.arange(rows) % turns if turns else np.zeros(0, np.int64)
    output = random.integers(1, 400, rows)
    new = np.where(number == 0, random.integers(500, 6000, rows), random.integers(1, 3000, rows))
    end = np.cumsum((new + output).reshape(trajectories, turns), axis=1).ravel() if rows else np.zeros(0, np.int64)
    return Batch.from_columns(
        parent=np.where(number == 0, -1, np.arange(rows) - 1),
        kept_tokens=np.where(number == 0, 0, end - output - new),
        prompt_tokens=end - output,
        output_tokens=output,
        pause_ns=np.where(number == 0, 0, random.integers(0, 20 * 10**9, rows)),
        arrival_ns=np.where(number == 0, random.integers(0, 10**12, rows), 0),
        trajectory=np.arange(rows) // max(turns, 1),
    )


def columns(rows: list[dict[str, Any]]) -> Batch:
    """A batch from a list of rows, absent values at their defaults."""
    defaults = {
        "parent": -1,
        "kept_tokens": 0,
        "prompt_tokens": 1,
        "output_tokens": 1,
        "pause_ns": 0,
        "arrival_ns": 0,
        "trajectory": 0,
    }
    made: dict[str, Any] = {name: [row.get(name, default) for row in rows] for name, default in defaults.items()}
    made["after"] = [row.get("after", row.get("parent", -1)) for row in rows]
    made["waits_for"] = [row.get("waits_for", []) for row in rows]
    for name in ("prefix", "cached_tokens"):
        if any(name in row for row in rows):
            made[name] = [row.get(name, -1) for row in rows]
    return Batch.from_columns(**made)


CASES: list[Case] = [
    ("empty", linear(0, 0)),
    ("one token", columns([{}])),
    ("output 0 is priced as 1", columns([{"output_tokens": 0}, {"parent": 0, "kept_tokens": 1, "prompt_tokens": 2}])),
    ("linear", linear(16)),
    ("many", linear(9, 40)),
    ("exact blocks", columns([{"prompt_tokens": 32}, {"parent": 0, "kept_tokens": 32, "prompt_tokens": 48}])),
    (
        "fork, join and compaction in any row order",
        columns(
            [
                {"parent": 3, "kept_tokens": 900, "prompt_tokens": 2000, "output_tokens": 50, "waits_for": [2, 1]},
                {"parent": 3, "kept_tokens": 1100, "prompt_tokens": 1200, "output_tokens": 9, "pause_ns": 10**9},
                {"after": 3, "prompt_tokens": 700, "output_tokens": 300, "pause_ns": 5, "trajectory": 1},
                {"prompt_tokens": 1000, "output_tokens": 100, "arrival_ns": 77},
            ]
        ),
    ),
    (
        "extends a context at its own time, even before that finished",
        columns(
            [
                {"prompt_tokens": 5000, "output_tokens": 800},
                {"parent": 0, "after": -1, "kept_tokens": 5800, "prompt_tokens": 6000, "arrival_ns": 3},
                {"parent": 0, "after": -1, "kept_tokens": 5000, "prompt_tokens": 6000, "arrival_ns": 10**13},
            ]
        ),
    ),
    (
        "named prefixes",
        columns(
            [
                {"prefix": 0, "kept_tokens": 500, "prompt_tokens": 600},
                {"prefix": 0, "kept_tokens": 300, "prompt_tokens": 900, "trajectory": 1},
                {"prefix": 1, "kept_tokens": 100, "prompt_tokens": 900, "trajectory": 2},
                {"prefix": 0, "kept_tokens": 700, "prompt_tokens": 800, "trajectory": 3},
            ]
        ),
    ),
    (
        "logged cached tokens, some unknown, some beyond what could be hit",
        columns(
            [
                {"prompt_tokens": 1000, "output_tokens": 2000, "cached_tokens": 1000},
                {"parent": 0, "kept_tokens": 1001, "prompt_tokens": 3000, "cached_tokens": 0},
                {"parent": 1, "kept_tokens": 3001, "prompt_tokens": 4000},
                {"parent": 2, "kept_tokens": 3001, "prompt_tokens": 4500, "cached_tokens": 4490},
            ]
        ),
    ),
    ("over the maximum, and children of such a turn", columns([{"prompt_tokens": 10**6}, {"parent": 0}])),
]


def make_rates(**changes: Any) -> kernels.Rates:
    """Rates of a plausible engine with some fields changed."""
    unit = 1 << 20
    made = kernels.Rates(
        fraction_bits=20,
        chunk=2048,
        chunk_step=60_000_000 * unit,
        prefill_step=300_000 * unit,
        decode_step=9_000_000 * unit,
        full=kernels.GroupRates(pair=unit // 2, context=40 * unit, decode=41 * unit, beside=0),
        windowed=kernels.GroupRates(0, 0, 0, 0),
        window=0,
        others=0,
        mean_context=-1,
        block_size=16,
        block_shift=4,
        usable_blocks=20_000,
        max_model_len=131_072,
        survival=kernels.NEVER,
        ttl_ns=0,
        churn_ns=1,
    )
    return made._replace(**changes)


def step_table(rates: kernels.Rates, seed: int = 1) -> np.ndarray:
    """A table of step times by tokens: overhead, then a knee where compute takes over from weight reads."""
    tokens = np.arange(rates.chunk + 1) + rates.others
    noise = np.random.default_rng(seed).integers(0, 1 << rates.fraction_bits, len(tokens))
    return (np.maximum(tokens * 29_000, 8_000_000) + 1_000_000).astype(np.int64) * (1 << rates.fraction_bits) + noise


WINDOWED = kernels.GroupRates(pair=1 << 18, context=20 << 20, decode=21 << 20, beside=0)
RATES: list[tuple[str, kernels.Rates]] = [
    ("alone", make_rates()),
    ("always evicted", make_rates(survival=kernels.ALWAYS)),
    ("no cache", make_rates(survival=kernels.NO_CACHE)),
    ("ttl", make_rates(survival=kernels.TTL, ttl_ns=8 * 10**9)),
    ("logged", make_rates(survival=kernels.LOGGED)),
    ("lru", make_rates(survival=kernels.LRU, churn_ns=10**6)),
    ("lru in a crowd", make_rates(survival=kernels.LRU, churn_ns=3 * 10**5, others=7, mean_context=9000, chunk=2041)),
    ("crowd like me", make_rates(others=31, full=kernels.GroupRates(1 << 19, 40 << 20, 41 << 20, 31 * 41 << 20))),
    ("window", make_rates(window=1024, windowed=WINDOWED)),
    (
        "window in a crowd",
        make_rates(window=128, windowed=WINDOWED._replace(beside=5 << 20), others=3, mean_context=50, chunk=100),
    ),
    ("odd blocks", make_rates(block_size=784, block_shift=-1, usable_blocks=100, survival=kernels.ALWAYS)),
    ("whole nanoseconds", make_rates(fraction_bits=0, full=kernels.GroupRates(1, 40, 41, 0))),
    ("tiny chunks", make_rates(chunk=1, survival=kernels.TTL, ttl_ns=0)),
]


@st.composite
def batches(draw: st.DrawFn, max_turns: int = 24) -> Batch:
    """Random DAGs of turns: forks, joins, compaction, own arrival times, prefixes, logged columns, any row order."""
    count = draw(st.integers(1, max_turns))
    trajectories = draw(st.integers(1, count))
    place = draw(st.permutations(range(count)))  # the row of the i-th turn made
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for number in range(count):
        row = rows[place[number]]
        row["trajectory"] = number if number < trajectories else draw(st.integers(0, trajectories - 1))
        row["prompt_tokens"] = draw(st.integers(1, 6000))
        row["output_tokens"] = draw(st.integers(0, 600))
        parent = -1
        if number:
            earlier = st.sampled_from(place[:number])
            parent = draw(st.one_of(st.just(-1), earlier))
            row["after"] = draw(st.one_of(st.just(parent), st.just(-1), earlier))
            row["waits_for"] = draw(st.lists(earlier, max_size=2, unique=True))
        row["parent"] = parent
        if parent >= 0:
            length = rows[parent]["prompt_tokens"] + rows[parent]["output_tokens"]
            row["kept_tokens"] = draw(st.integers(0, min(length, row["prompt_tokens"])))
        elif draw(st.booleans()):
            row["prefix"] = draw(st.integers(0, 2))
            row["kept_tokens"] = draw(st.integers(0, row["prompt_tokens"]))
        row["pause_ns"] = draw(st.integers(0, 10**11))
        row["arrival_ns"] = draw(st.integers(0, 10**12))
        if draw(st.booleans()):
            row["cached_tokens"] = draw(st.integers(-1, row["prompt_tokens"]))
    return columns(rows)


@st.composite
def all_rates(draw: st.DrawFn) -> kernels.Rates:
    """Random rates: any survival, load, window, block size and chunk."""
    size = draw(st.sampled_from([1, 16, 32, 128, 100, 784]))
    group = st.builds(
        kernels.GroupRates,
        pair=st.integers(0, 1 << 20),
        context=st.integers(0, 1 << 26),
        decode=st.integers(0, 1 << 27),
        beside=st.integers(0, 1 << 30),
    )
    return make_rates(
        fraction_bits=draw(st.integers(0, 20)),
        chunk=draw(st.integers(1, 4096)),
        full=draw(group),
        windowed=draw(group),
        window=draw(st.one_of(st.just(0), st.integers(1, 5000))),
        others=draw(st.integers(0, 64)),
        mean_context=draw(st.one_of(st.just(-1), st.integers(0, 20_000))),
        block_size=size,
        block_shift=size.bit_length() - 1 if size & (size - 1) == 0 else -1,
        usable_blocks=draw(st.integers(1, 3000)),
        max_model_len=draw(st.sampled_from([4096, 8192, 131_072])),
        survival=draw(st.integers(0, 5)),
        ttl_ns=draw(st.integers(0, 10**11)),
        churn_ns=draw(st.integers(1, 10**9)),
    )
