"""Speed of the cost term on the rollouts of one training step, beside a reward that only counts tokens.

pytest bench/bench_reward.py --benchmark-json=reward.json && python bench/ratios.py reward.json

1,024 rollouts of 16 turns. Times are the process's CPU time (the calls use one thread), but for the last benchmark.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import MODEL, agent_runs

import kvsim

ROLLOUTS, TURNS, TOKENS = 1024, 16, 2048
ROUNDS = {"rounds": 40, "iterations": 1, "warmup_rounds": 5}
COLUMNS = ("parent", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "arrival_ns", "trajectory")

pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.fixture(scope="module")
def term():
    return kvsim.CostTerm(**MODEL, unit="gpu_s")


@pytest.fixture(scope="module")
def columns():
    batch = agent_runs(ROLLOUTS * TURNS, TURNS)
    return {name: np.array(getattr(batch, name)) for name in COLUMNS}


@pytest.fixture(scope="module")
def rollouts():
    """Token ids and masks: a prompt of 256, then turns of 20 to 69 tokens and responses of 10 to 49, then padding."""
    random = np.random.default_rng(0)
    masks = np.full((ROLLOUTS, TOKENS), -1, np.int8)
    for mask in masks:
        at = 256
        mask[:at] = 0
        for output, read in zip(random.integers(20, 70, TURNS), random.integers(10, 50, TURNS), strict=True):
            mask[at : at + output] = 1
            mask[at + output : at + output + read] = 0
            at += output + read
        mask[at:] = -1
    return random.integers(0, 150_000, masks.shape), masks


@pytest.fixture(scope="module")
def chats(columns):
    """TRL's prompt and completion as one list of messages, and the tokens of each."""
    new = columns["prompt_tokens"] - columns["kept_tokens"]
    made, counts = [], []
    for first in range(0, ROLLOUTS * TURNS, TURNS):
        messages, tokens = [], []
        for turn in range(TURNS):
            heard = {"role": "tool", "name": "search", "content": "found"} if turn else {"role": "user", "content": "?"}
            call = {"type": "function", "function": {"name": "search", "arguments": {"query": "it"}}}
            messages += [heard, {"role": "assistant", "content": "", "tool_calls": [call]}]
            tokens += [int(new[first + turn]), int(columns["output_tokens"][first + turn])]
        made.append(messages)
        counts.append(tokens)
    return made, counts


def note(benchmark, role, turns=ROLLOUTS * TURNS):
    benchmark.extra_info |= {"turns": turns, "role": role}


def test_counting_columns(benchmark, columns):
    """The reward that only counts tokens, from the same columns."""
    note(benchmark, "plain")
    owners, outputs = columns["trajectory"], columns["output_tokens"]
    benchmark.pedantic(lambda: np.bincount(owners, weights=outputs, minlength=ROLLOUTS), **ROUNDS)


def test_columns(benchmark, term, columns):
    """Costs of rollouts from packed columns, the check of the columns included."""
    note(benchmark, "cost, columns")
    benchmark.pedantic(lambda: term(kvsim.Batch.from_columns(**columns)), **ROUNDS)


def test_columns_with_turns(benchmark, term, columns):
    """The same with the costs of turns."""
    note(benchmark, "cost + turns, columns")

    def price():
        costs = term.price(kvsim.Batch.from_columns(**columns))
        return costs.trajectories, costs.turns

    benchmark.pedantic(price, **ROUNDS)


def test_columns_with_marginal_costs(benchmark, term, columns):
    """The same with the marginal costs of all turns: 245,760 turns more to price."""
    note(benchmark, "cost + turns + marginal, columns")

    def price():
        costs = term.price(kvsim.Batch.from_columns(**columns))
        return costs.trajectories, costs.turns, costs.marginal

    benchmark.pedantic(price, **ROUNDS)


def test_counting_messages(benchmark, chats):
    """The reward that only counts tokens, from messages."""
    note(benchmark, "count, messages")
    made, counts = chats

    def count():
        return [
            sum(n for message, n in zip(messages, tokens, strict=True) if message["role"] == "assistant")
            for messages, tokens in zip(made, counts, strict=True)
        ]

    benchmark.pedantic(count, **ROUNDS)


def test_messages(benchmark, term, chats):
    """Costs from message lists with known token counts."""
    note(benchmark, "cost, messages")
    made, counts = chats
    benchmark.pedantic(lambda: term(made, token_counts=counts), **ROUNDS)


def test_counting_masks(benchmark, rollouts):
    """The reward that only counts tokens, from masks."""
    note(benchmark, "count, masks")
    _, masks = rollouts
    benchmark.pedantic(lambda: np.count_nonzero(masks == 1, axis=1), **ROUNDS)


def test_masks(benchmark, term, rollouts):
    """Costs from arrays of token ids with int8 masks."""
    note(benchmark, "cost, masks")
    ids, masks = rollouts
    benchmark.pedantic(lambda: term(ids, masks=masks), **ROUNDS)


def test_lists_of_masks(benchmark, term, rollouts):
    """The same, one array a rollout."""
    note(benchmark, "cost, lists of masks")
    ids, masks = map(list, rollouts)
    benchmark.pedantic(lambda: term(ids, masks=masks), **ROUNDS)


@pytest.mark.benchmark(timer=time.perf_counter)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads(benchmark, term, threads):
    """Wall time of 16 calls of 65,536 turns each on so many threads."""
    note(benchmark, f"{threads} threads", 16 << 16)
    batches = [agent_runs(1 << 16, TURNS, seed) for seed in range(16)]
    with ThreadPoolExecutor(threads) as pool:
        benchmark.pedantic(lambda: list(pool.map(term, batches)), rounds=15, iterations=1, warmup_rounds=2)
