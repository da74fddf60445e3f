"""Speed of attribution: 50,000 turns in 1,000 trajectories, and in one.

pytest bench/bench_attribution.py --benchmark-json=attribution.json && python bench/ratios.py attribution.json
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import MODEL, agent_runs

import kvsim
from kvsim import Batch
from kvsim.insight import attribute

TURNS = 50_000
LONG = kvsim.EngineConfig(max_model_len=2_000_000, num_gpu_blocks_override=130_000)
ROUNDS = {"rounds": 5, "iterations": 1, "warmup_rounds": 1}


def with_tools(batch: Batch) -> Batch:
    """Every turn but a trajectory's first brings one tool's response."""
    root = batch.parent < 0
    new = (batch.prompt_tokens - batch.kept_tokens).tolist()
    tool = np.where(root, -1, np.arange(batch.turns) % 5)
    kinds = np.where(root, "user", "tool").tolist()
    segments = [[part] for part in zip(kinds, tool.tolist(), new, strict=True)]
    return Batch.from_columns(**batch.columns, tool=tool, segments=segments)


def everything(result):
    """All sums that there are."""
    made = attribute(result)
    for table in (made.run, made.trajectories, made.tools, made.tool_calls, *made.trajectory_sources, made.evictions):
        for name in table:
            _ = table[name]


@pytest.mark.parametrize("trajectories", [1000, 1])
@pytest.mark.parametrize("kind", ["estimate", "simulation"])
def test_attribution(benchmark, trajectories, kind):
    per_trajectory = TURNS // trajectories
    batch = agent_runs(TURNS, per_trajectory)
    if trajectories == 1:  # its context grows by 20 tokens a turn
        end = 20 * np.arange(1, TURNS + 1)
        columns = batch.columns | {
            "kept_tokens": np.append(0, end[:-1]),
            "prompt_tokens": end - 8,
            "output_tokens": np.full(TURNS, 8),
        }
        batch = Batch.from_columns(**columns)
    batch = with_tools(batch)
    if kind == "estimate":
        result = kvsim.estimate(batch, **MODEL, engine=LONG)
    else:
        result = kvsim.simulate(batch, **MODEL, engine=LONG, arrivals="closed:64", evictions=True)
    benchmark.extra_info |= {"turns": TURNS, "role": f"{kind}, {trajectories} trajectories"}
    benchmark.pedantic(lambda: everything(result), **ROUNDS)
