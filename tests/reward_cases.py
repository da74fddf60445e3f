"""Rollouts that the tests of costs and rewards share, and Hypothesis strategies for the rest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

import kvsim

MODEL = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}

#: A run as what each turn reads and writes, and how long its tools take: (new tokens, output tokens, tool seconds).
Run = list[tuple[int, int, float]]


def random_runs(count: int, turns: int, seed: int = 0) -> list[Run]:
    """Agent runs of equally many turns."""
    random = np.random.default_rng(seed)
    return [
        [
            (int(random.integers(500, 3000) if turn == 0 else random.integers(1, 900)), int(random.integers(1, 300)), s)
            for turn, s in enumerate(random.integers(1, 5000, turns) / 1000)
        ]
        for _ in range(count)
    ]


def counts_of(run: Run) -> list[tuple[int, int]]:
    """A run as (prompt tokens, output tokens)."""
    pairs, context = [], 0
    for new, output, _ in run:
        pairs.append((context + new, output))
        context += new + output
    return pairs


def seconds_of(runs: list[Run]) -> list[list[float]]:
    """The tool times of runs."""
    return [[seconds for _, _, seconds in run] for run in runs]


def batch_of(runs: list[Run]) -> kvsim.Batch:
    """Runs as a batch of neutral trajectories."""
    trajectories = []
    for number, run in enumerate(runs):
        turns: list[dict[str, Any]] = []
        for prompt, output in counts_of(run):
            turns.append({"prompt_tokens": prompt, "output_tokens": output})
        for at, (before, turn) in enumerate(pairwise(turns)):
            kept = before["prompt_tokens"] + before["output_tokens"]
            turn |= {"parent": at, "kept_tokens": kept, "pause_s": run[at][2]}
        trajectories.append({"id": f"run {number}", "turns": turns})
    return kvsim.Batch.from_trajectories(trajectories)


def ids_of(run: Run, padding: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A run as token ids and masks, the last tool's response read by no turn."""
    mask = [-1] * padding
    for new, output, _ in run:
        mask += [0] * new + [1] * output
    mask += [0] * 7 + [-1] * padding
    return np.arange(len(mask)), np.array(mask, np.int8)


def messages_of(run: Run) -> tuple[list[dict[str, Any]], list[int]]:
    """A run as chat messages, and the tokens that each takes."""
    messages: list[dict[str, Any]] = []
    counts = []
    for number, (new, output, _) in enumerate(run):
        if number:
            messages.append({"role": "tool", "name": "search", "content": "found"})
        else:
            messages.append({"role": "user", "content": "question"})
        call = {"id": str(number), "type": "function", "function": {"name": "search", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        counts += [new, output]
    return messages, counts


runs = st.lists(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(1, 600), st.floats(0, 1e4).map(lambda s: round(s, 9))),
        min_size=1,
        max_size=7,
    ),
    min_size=1,
    max_size=6,
)

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)

#: Messages with any field malformed but the role.
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={
            "content": st.text(max_size=30) | junk,
            "tool_calls": junk
            | st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "id": st.text(max_size=2),
                        "function": junk | st.fixed_dictionaries({"name": junk, "arguments": junk}),
                    },
                ),
                max_size=2,
            ),
            "tool_call_id": junk | st.text(max_size=2),
            "name": junk,
            "reasoning_content": junk,
        },
    ),
    max_size=6,
)
