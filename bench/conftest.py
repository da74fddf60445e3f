"""Workloads shared by the benchmarks."""

from __future__ import annotations

import os

import numpy as np
import pytest

from kvsim import Batch

MODEL = {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "h100-sxm"}
TURNS = int(float(os.environ.get("KVSIM_BENCH_TURNS", "1e7")))


def agent_runs(turns: int, per_trajectory: int = 16, seed: int = 0) -> Batch:
    """Linear agent runs: 2-6k tokens of first prompt, 50-400 of output, 20-3,000 of each tool's response."""
    random = np.random.default_rng(seed)
    trajectories = turns // per_trajectory
    rows = trajectories * per_trajectory
    row = np.arange(rows)
    number = row % per_trajectory
    output = random.integers(50, 400, rows)
    new = np.where(number == 0, random.integers(2000, 6000, rows), random.integers(20, 3000, rows))
    end = np.cumsum((new + output).reshape(trajectories, per_trajectory), axis=1).ravel()
    return Batch.from_columns(
        parent=np.where(number == 0, -1, row - 1),
        kept_tokens=np.where(number == 0, 0, end - output - new),
        prompt_tokens=end - output,
        output_tokens=output,
        pause_ns=np.where(number == 0, 0, random.integers(10**8, 10**10, rows)),
        arrival_ns=np.zeros(rows, np.int64),
        trajectory=row // per_trajectory,
    )


@pytest.fixture(scope="session")
def many() -> Batch:
    """10 million turns (KVSIM_BENCH_TURNS changes that)."""
    return agent_runs(TURNS)


@pytest.fixture(scope="session")
def one() -> Batch:
    """One trajectory of 16 turns."""
    return agent_runs(16)
