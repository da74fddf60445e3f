"""Serving traces and agent traces with counts: OpenHands, kv-cache-tester, Mooncake; small cases and excerpts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import InputError
from kvsim.logs import read
from kvsim.logs.kept import by_blocks, by_lengths
from kvsim.logs.openhands import NO_USAGE

S = 10**9


def written(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("prompt", "cached", "kept"),
    [(200, -1, 150), (150, 0, 150), (120, -1, 100), (120, 110, 110), (60, -1, 0), (60, 40, 40)],
)
def test_kept_by_lengths(prompt: int, cached: int, kept: int) -> None:
    assert by_lengths(prompt, cached, 100, 50)[0] == kept


@pytest.mark.parametrize(
    ("shared", "prompt", "kept"), [(2, 400, 180), (2, 160, 160), (1, 400, 64), (0, 400, 0), (3, 400, 180)]
)
def test_kept_by_blocks(shared: int, prompt: int, kept: int) -> None:
    assert by_blocks(shared, 64, prompt, 150, 30) == kept


def test_a_parent_without_a_full_block_is_taken_to_be_extended() -> None:
    """All of its full blocks, which are none, are shared: nothing speaks against it."""
    assert by_blocks(0, 64, 400, 50, 30) == 80


def main(t: float, prompt: int, hashes: list[int], **more: Any) -> dict[str, Any]:
    return {"t": t, "type": "n", "in": prompt, "out": 10, "hash_ids": hashes, "api_time": 2.0, **more}


def test_subagents_run_beside_the_main_agent(tmp_path: Path) -> None:
    def agent(t: float, duration_ms: int | None, *requests: dict[str, Any]) -> dict[str, Any]:
        return {"t": t, "type": "subagent", "agent_id": "x", "duration_ms": duration_ms, "requests": list(requests)}

    trace = {
        "id": "a",
        "block_size": 64,
        "requests": [
            main(0.0, 128, [1, 2]),
            agent(12.5, 10_000, main(0.0, 64, [9]), main(5.0, 128, [9, 8])),
            agent(40.0, 37_000, main(0.0, 64, [9])),
            main(20.0, 192, [1, 2, 3], think_time=18.0),
            agent(23.0, None, main(0.0, 64, [7])),
            main(50.0, 256, [1, 2, 3, 4]),
        ],
    }
    batch = read(written(tmp_path, trace))
    assert batch.prompt_tokens.tolist() == [128, 64, 128, 64, 192, 64, 256]
    assert batch.parent.tolist() == [-1, -1, 1, 2, 0, -1, 4]  # the second sub-agent begins like the first
    assert batch.after.tolist() == [-1, 0, 1, 0, 0, 4, 4]
    assert batch.waits_for is not None
    assert [batch.waits_for[row] for row in range(7)] == [[], [], [], [], [2], [], [3]]
    assert batch.pause_ns.tolist() == [0, S // 2, 3 * S, S, 75 * S // 10, S, 10 * S]
    assert batch.report is not None
    assert batch.report.adds_up
    assert batch.report.used == 7


def test_the_earlier_request_that_shares_most_is_the_parent(tmp_path: Path) -> None:
    trace = {
        "id": "a",
        "requests": [main(0, 256, [1, 2, 3, 4]), main(5, 64, [9]), main(10, 320, [1, 2, 3, 4, 5])],
    }
    batch = read(written(tmp_path, trace))
    assert batch.parent.tolist() == [-1, 0, 0]
    assert batch.after.tolist() == [-1, 0, 1]
    assert batch.kept_tokens.tolist() == [0, 0, 266]
    derived = json.loads(json.dumps(trace))
    for request, (blocks, shared) in zip(derived["requests"], [(4, 0), (1, 0), (5, 0)], strict=True):
        del request["hash_ids"]
        request |= {"n_blocks": blocks, "lcp_prev_blocks": shared}
    assert read(written(tmp_path, derived)).kept_tokens.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"in": None}, "requests[1].in"),
        ({"in": -1}, "requests[1].in"),
        ({"out": None}, "requests[1].out"),
        ({"t": None}, "requests[1].t"),
        ({"api_time": -2.0}, "requests[1].api_time"),
        ({"hash_ids": None}, "requests[1].hash_ids"),
    ],
)
def test_broken_requests(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    good = {"id": "good", "requests": [main(0, 64, [1])]}
    bad = {"id": "bad", "requests": [main(0, 64, [1]), main(1, 64, [1]) | change]}
    path = written(tmp_path, good, bad)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.line, caught.value.field) == (2, field)
    batch = read(path, lenient=True)
    assert list(batch.ids) == ["good"]
    assert batch.report is not None
    assert batch.report.adds_up


def test_raw_and_derived_agree(logs: Path) -> None:
    raw = read(logs / "kv-cache-tester/trace_0291.json.gz")
    derived = read(logs / "kv-cache-tester/derived.excerpt.jsonl")
    for name in ("prompt_tokens", "output_tokens", "after", "pause_ns", "arrival_ns", "trajectory"):
        assert getattr(raw, name).tolist() == getattr(derived, name).tolist()
    same = raw.parent == derived.parent
    assert (raw.kept_tokens[same] == derived.kept_tokens[same]).all()
    assert (raw.kept_tokens[~same] >= derived.kept_tokens[~same]).all()
    assert same.sum() >= len(same) - 2  # two sub-agents: the second begins like the first


def test_mooncake_shares_by_hash(tmp_path: Path) -> None:
    def row(ms: float, prompt: int, hashes: list[int]) -> dict[str, Any]:
        return {"timestamp": ms, "input_length": prompt, "output_length": 100, "hash_ids": hashes}

    batch = read(
        written(
            tmp_path,
            row(1000, 1100, [1, 2, 3]),
            row(3000, 700, [9, 8]),
            row(2500, 2000, [1, 2, 4, 5]),
            row(4000, 1100, [1, 6, 7]),
        )
    )
    assert batch.parent.tolist() == [-1, -1, 0, 2]
    assert batch.after.tolist() == [-1] * 4
    assert batch.kept_tokens.tolist() == [0, 0, 1200, 512]
    assert batch.arrival_ns.tolist() == [0, 2 * S, 15 * S // 10, 3 * S]
    assert len(batch) == 4


def test_mooncake_rows_out_of_order(tmp_path: Path) -> None:
    rows = [
        {"timestamp": ms, "input_length": 1100, "output_length": 100, "hash_ids": hashes}
        for ms, hashes in [(2000, [1, 2, 3]), (1000, [1, 2, 4]), (3000, [1, 2, 4]), (1000, [1, 5])]
    ]
    batch = read(written(tmp_path, *rows))
    assert [id.rpartition(":")[2] for id in batch.ids] == ["1", "2", "3", "4"]
    assert batch.parent.tolist() == [1, -1, 1, 1]
    assert batch.after.tolist() == [-1] * 4
    assert batch.kept_tokens.tolist() == [1100, 0, 1100, 512]
    assert batch.arrival_ns.tolist() == [S, 0, 2 * S, 0]


def test_mooncake_excerpt(logs: Path) -> None:
    batch = read(logs / "mooncake/conversation_trace.head200.jsonl")
    assert len(batch) == batch.turns == 200
    assert (batch.kept_tokens[batch.parent >= 0] > 0).all()


def test_openhands_joins_on_response_id(tmp_path: Path) -> None:
    def event(seconds: int, **fields: Any) -> dict[str, Any]:
        return {"timestamp": f"2025-04-30T16:32:{seconds:02d}.000000", **fields}

    def call(response: str) -> dict[str, Any]:
        return {"tool_call_metadata": {"function_name": "bash", "model_response": {"id": response}}}

    session = {
        "instance_id": "x",
        "history": [
            event(0, source="agent", action="system", args={"content": "s" * 350, "tools": [{"name": "bash"}]}),
            event(0, source="user", action="message", args={"content": "u" * 350}),
            event(5, source="agent", action="run", **call("r1")),
            event(5, source="agent", action="run", **call("r1")),
            event(9, source="agent", observation="run", content="o" * 35, **call("r1")),
            event(11, source="agent", observation="run", content="o" * 350, **call("r1")),
            event(15, source="agent", action="finish", **call("r2")),
        ],
        "metrics": {
            "token_usages": [
                {"response_id": "r1", "prompt_tokens": 300, "completion_tokens": 20, "cache_read_tokens": 200},
                {"response_id": "r2", "prompt_tokens": 500, "completion_tokens": 30},
            ],
            "response_latencies": [
                {"response_id": "lost", "latency": 9.0},
                {"response_id": "r2", "latency": 3.0},
                {"response_id": "r1", "latency": 4.0},
            ],
        },
    }
    batch = read(written(tmp_path, session))
    assert batch.prompt_tokens.tolist() == [300, 500]  # what was cached is part of the prompt
    assert batch.kept_tokens.tolist() == [0, 320]
    assert batch.pause_ns.tolist() == [0, 7 * S]
    assert batch.e2e_ns is not None
    assert batch.e2e_ns.tolist() == [4 * S, 3 * S]
    assert batch.segments is not None
    assert batch.segments.kind.tolist() == [0, 1, 2, 3]
    assert batch.segments.tokens.sum() == 300 + 180
    assert batch.report is not None
    assert batch.report.skipped == {NO_USAGE: 1}
    assert (batch.report.used, batch.report.tool_results) == (2, 2)
    assert batch.report.adds_up


def test_openhands_excerpt(logs: Path) -> None:
    batch = read(logs / "openhands/output.excerpt.jsonl")
    assert batch.turns == 33
    assert batch.report is not None
    assert batch.report.skipped == {NO_USAGE: 1}
    assert batch.report.tool_results == 32
