"""The full corpora come out with the counts that were computed from them independently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvsim.logs import read
from kvsim.trajectory import Batch


def checked(batch: Batch) -> Batch:
    assert batch.report is not None
    assert batch.report.adds_up
    assert not batch.report.dropped
    return batch


def test_kv_cache_tester(shared: Path) -> None:
    batch = checked(read(shared / "data/traces/kv-cache-tester/all_710_requests_derived.jsonl.gz"))
    assert (len(batch), batch.turns) == (710, 49_334)
    assert batch.e2e_ns is not None
    assert (batch.e2e_ns < 0).sum() == 4_312
    assert (batch.output_tokens == 0).sum() == 27
    assert batch.prompt_tokens.max() == 894_371
    longest = np.zeros(len(batch), np.int64)
    np.maximum.at(longest, batch.trajectory, batch.prompt_tokens + batch.output_tokens)
    assert (longest <= 40_960).sum() == 26
    assert (longest <= 262_144).sum() == 586


def test_raw_traces_agree_with_the_derived_file(shared: Path) -> None:
    folder = shared / "data/traces/kv-cache-tester"
    raw = checked(read(folder / "traces"))
    derived = read(folder / "all_710_requests_derived.jsonl.gz")
    number = {id: n for n, id in enumerate(derived.ids)}
    part = derived.select([number[id] for id in raw.ids])
    assert (len(raw), raw.turns) == (150, 10_871)
    for name in ("prompt_tokens", "output_tokens", "after", "pause_ns", "arrival_ns"):
        assert (getattr(raw, name) == getattr(part, name)).all()
    same = raw.parent == part.parent
    assert (raw.kept_tokens[same] == part.kept_tokens[same]).all()
    assert (raw.kept_tokens[~same] >= part.kept_tokens[~same]).all()
    assert 0 < (~same).sum() < 120


def test_mooncake(shared: Path) -> None:
    batch = checked(read(shared / "data/traces/mooncake/conversation_trace.jsonl"))
    assert (len(batch), batch.turns) == (12_031, 12_031)


def test_openhands(shared: Path) -> None:
    path = shared / "data/traces/openhands/evaluation/benchmarks/multi_swe_bench/examples/output.jsonl"
    batch = checked(read(path))
    assert (len(batch), batch.turns) == (3, 105)
    assert batch.report is not None
    assert batch.report.skipped.total() == 2
    assert batch.report.tool_results == 103


def test_tau_bench(shared: Path) -> None:
    batch = checked(read(shared / "data/traces/tau-bench/gpt-4o-airline.json"))
    assert len(batch) == 200
    assert batch.report is not None
    assert batch.report.tool_results == 1_164
    assert batch.estimated_share == 1.0


@pytest.mark.parametrize("name", ["edge_cases", "representative_messages", "session_b", "todowrite_examples"])
def test_claude_code(shared: Path, name: str) -> None:
    expected = {"edge_cases": 4, "representative_messages": 5, "session_b": 1, "todowrite_examples": 6}
    batch = checked(read(shared / f"data/traces/claude-code-log/{name}.jsonl"))
    assert batch.turns == expected[name]
