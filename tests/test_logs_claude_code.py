"""Claude Code sessions: the traps of the format, one by one, and its fixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import InputError
from kvsim.logs import read
from kvsim.logs.claude_code import STALE_OUTPUT
from kvsim.logs.kept import SHRANK
from kvsim.logs.times import BACKWARDS

S = 10**9


def at(seconds: float) -> str:
    return f"2026-06-01T05:{int(seconds // 60):02d}:{seconds % 60:06.3f}Z"


def record(kind: str, uuid: str, parent: str | None, seconds: float, message: Any, **more: Any) -> dict[str, Any]:
    fields = {"type": kind, "uuid": uuid, "parentUuid": parent, "timestamp": at(seconds), "sessionId": "s"}
    return {**fields, "message": message, **more}


def user(uuid: str, parent: str | None, seconds: float, text: str = "please " * 20, **more: Any) -> dict[str, Any]:
    return record("user", uuid, parent, seconds, {"role": "user", "content": text}, **more)


def result(uuid: str, parent: str, seconds: float, tool: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "tool_result", "tool_use_id": tool, "content": "found " * 20}]
    return record("user", uuid, parent, seconds, {"role": "user", "content": content}, **more)


def said(
    uuid: str,
    parent: str | None,
    seconds: float,
    id: str,
    usage: dict[str, int] | None,
    *tools: str,
    text: str = "ok",
    model: str = "claude-opus",
    **more: Any,
) -> dict[str, Any]:
    content = [{"type": "text", "text": text}] if text else []
    content += [{"type": "tool_use", "id": tool, "name": tool.rstrip("0123456789"), "input": {}} for tool in tools]
    return record(
        "assistant", uuid, parent, seconds, {"id": id, "model": model, "content": content, "usage": usage}, **more
    )


def counts(prompt: int, output: int, read: int = 0, created: int = 0) -> dict[str, int]:
    fields = {"cache_read_input_tokens": read, "cache_creation_input_tokens": created}
    return {"input_tokens": prompt - read - created, "output_tokens": output, **fields}


def written(tmp_path: Path, *records: dict[str, Any], name: str = "s.jsonl") -> Path:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in records))
    return path


def test_one_message_in_several_records_is_one_call(tmp_path: Path) -> None:
    batch = read(
        written(
            tmp_path,
            user("u1", None, 0),
            said("a1", "u1", 5, "m1", counts(1000, 3, read=600, created=390), text="thinking"),
            said("a2", "a1", 6, "m1", counts(1000, 40, read=600, created=390), "Bash1", text=""),
            result("u2", "a2", 9, "Bash1"),
            said("a3", "u2", 11, "m2", counts(1100, 20, read=1000)),
        )
    )
    assert batch.turns == 2
    assert batch.prompt_tokens.tolist() == [1000, 1100]  # input is without what was cached
    assert batch.output_tokens.tolist() == [40, 20]  # the last of a message's counts
    assert batch.kept_tokens.tolist() == [0, 1040]
    assert batch.cached_tokens is not None
    assert batch.cached_tokens.tolist() == [600, 1000]
    assert batch.pause_ns.tolist() == [0, 3 * S]
    assert batch.e2e_ns is not None
    assert batch.e2e_ns.tolist() == [6 * S, 2 * S]
    assert batch.tool is not None
    assert batch.tool_names[batch.tool[1]] == "Bash"
    assert batch.report is not None
    assert (batch.report.used, batch.report.tool_results) == (5, 1)
    assert batch.report.adds_up


def test_stale_output_counts_are_replaced(tmp_path: Path) -> None:
    text = "A long answer of many words. " * 50
    batch = read(written(tmp_path, user("u1", None, 0), said("a1", "u1", 5, "m1", counts(100, 1), text=text)))
    assert batch.output_tokens.tolist() == [-(-len(text) * 2 // 7)]
    assert batch.estimated_tokens is not None
    assert batch.estimated_tokens.tolist() == batch.output_tokens.tolist()
    assert batch.report is not None
    assert batch.report.flagged == {STALE_OUTPUT: 1}


def test_synthetic_models_are_no_calls(tmp_path: Path) -> None:
    batch = read(
        written(
            tmp_path,
            user("u1", None, 0),
            said("a0", "u1", 1, "m0", counts(0, 0), model="<synthetic>"),
            user("u2", "a0", 2),
            said("a1", "u2", 5, "m1", counts(100, 5)),
        )
    )
    assert batch.turns == 1
    assert batch.report is not None
    assert batch.report.skipped == {"synthetic message": 1}
    assert batch.report.adds_up


def test_parallel_tools_pause_for_the_longest_less_the_overlap(tmp_path: Path) -> None:
    batch = read(
        written(
            tmp_path,
            user("u1", None, 0),
            said("a1", "u1", 5, "m1", counts(100, 50), "Read1", text=""),
            result("r1", "a1", 6, "Read1"),  # came in while the message was still being written
            said("a2", "a1", 8, "m1", counts(100, 50), "Bash2", text=""),
            result("r2", "a2", 15, "Bash2"),
            said("a3", "r2", 18, "m2", counts(200, 5)),
        )
    )
    assert batch.pause_ns.tolist() == [0, 7 * S]
    assert batch.segments is not None
    assert [batch.tool_names[tool] for tool in batch.segments.tool] == ["Read", "Bash"]
    assert batch.tool is not None
    assert batch.tool_names[batch.tool[1]] == "Bash"


def test_what_a_runner_reports_is_preferred_to_permission_prompts(tmp_path: Path) -> None:
    batch = read(
        written(
            tmp_path,
            user("u1", None, 0),
            said("a1", "u1", 5, "m1", counts(100, 50), "Bash1"),
            result("r1", "a1", 100, "Bash1", toolUseResult={"durationMs": 2500, "stdout": ""}),
            said("a2", "r1", 103, "m2", counts(200, 5)),
        )
    )
    assert batch.pause_ns.tolist() == [0, 25 * S // 10]


def test_clocks_that_go_back(tmp_path: Path) -> None:
    batch = read(
        written(
            tmp_path,
            user("u1", None, 50),
            said("a1", "u1", 55, "m1", counts(100, 50)),
            user("u2", "a1", 10),
            said("a2", "u2", 15, "m2", counts(200, 5)),
        )
    )
    assert batch.pause_ns.tolist() == [0, 0]
    assert batch.report is not None
    assert batch.report.flagged == {BACKWARDS: 1}


def test_compaction_keeps_what_was_cached(tmp_path: Path) -> None:
    boundary = {"type": "system", "subtype": "compact_boundary", "uuid": "c", "parentUuid": None, "sessionId": "s"}
    batch = read(
        written(
            tmp_path,
            user("u1", None, 0),
            said("a1", "u1", 5, "m1", counts(150_000, 50)),
            boundary,
            user("u2", "c", 20, isCompactSummary=True),
            said("a2", "u2", 25, "m2", counts(30_000, 5, read=12_000)),
        )
    )
    assert batch.parent.tolist() == [-1, 0]
    assert batch.kept_tokens.tolist() == [0, 12_000]
    assert batch.report is not None
    assert batch.report.flagged == {SHRANK: 1}


def test_going_back_forks_the_session(tmp_path: Path) -> None:
    batch = read(
        written(
            tmp_path,
            user("u1", None, 0),
            said("a1", "u1", 5, "m1", counts(100, 50)),
            user("u2", "a1", 6),
            said("a2", "u2", 9, "m2", counts(200, 5)),
            user("u3", "a1", 30),
            said("a3", "u3", 33, "m3", counts(210, 5)),
        )
    )
    assert batch.parent.tolist() == [-1, 0, 0]
    assert batch.kept_tokens.tolist() == [0, 150, 150]
    assert batch.pause_ns.tolist() == [0, S, 25 * S]


@pytest.mark.parametrize("own_file", [False, True])
def test_sidechains_are_subagents(tmp_path: Path, own_file: bool) -> None:
    side = [
        user("s1", None, 6, isSidechain=True, agentId="x"),
        said("s2", "s1", 9, "n1", counts(50, 5), "Grep1", isSidechain=True, agentId="x"),
        result("s3", "s2", 10, "Grep1", isSidechain=True, agentId="x"),
        said("s4", "s3", 12, "n2", counts(90, 5), isSidechain=True, agentId="x"),
    ]
    start = [user("u1", None, 0), said("a1", "u1", 5, "m1", counts(100, 50), "Task1")]
    end = [result("u2", "a1", 13, "Task1"), said("a2", "u2", 20, "m2", counts(200, 5))]
    if own_file:
        written(tmp_path, *start, *end)
        written(tmp_path, *side, name="s/subagents/agent-x.jsonl")
    else:
        written(tmp_path, *start, *side, *end)
    batch = read(tmp_path)
    assert len(batch) == 1
    assert batch.prompt_tokens.tolist() == [100, 50, 90, 200]
    assert batch.parent.tolist() == [-1, -1, 1, 0]
    assert batch.after.tolist() == [-1, 0, 1, 0]
    assert batch.waits_for is not None
    assert batch.waits_for[3] == [2]
    assert batch.pause_ns.tolist() == [0, S, S, S]  # the last: from the sub-agent's end to its result
    assert batch.report is not None
    assert batch.report.adds_up


def test_sessions_without_usage_are_estimated(tmp_path: Path) -> None:
    first, second = said("a1", "u1", 5, "m1", None), said("a2", "u2", 9, "m2", None)
    del first["message"]["usage"], second["message"]["usage"]
    batch = read(written(tmp_path, user("u1", None, 0), first, user("u2", "a1", 6), second))
    assert batch.estimated_share == 1
    assert batch.kept_tokens[1] == batch.prompt_tokens[0] + batch.output_tokens[0]


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (said("a", None, 1, "m", {"input_tokens": -1, "output_tokens": 1}), "message.usage.input_tokens"),
        (said("a", None, 1, "m", counts(10, 1)) | {"timestamp": "yesterday"}, "timestamp"),
        (said("a", None, 1, "m", counts(10, 1)) | {"message": "oops"}, "message"),
    ],
)
def test_broken_calls(tmp_path: Path, broken: dict[str, Any], field: str) -> None:
    path = written(tmp_path, user("u", None, 0), said("b", "u", 1, "m0", counts(10, 1)), broken)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.line, caught.value.field) == (3, field)
    batch = read(path, lenient=True)
    assert batch.turns == 1
    assert batch.report is not None
    assert batch.report.dropped == {field: 1}
    assert batch.report.adds_up


@pytest.mark.parametrize(
    ("name", "calls"), [("edge_cases", 4), ("representative_messages", 5), ("session_b", 1), ("todowrite_examples", 6)]
)
def test_fixtures(logs: Path, name: str, calls: int) -> None:
    path = logs / "claude-code-log" / f"{name}.jsonl"
    batch = read(path)
    assert batch.turns == calls
    assert batch.report is not None
    assert batch.report.adds_up
    assert batch.report.records == len(path.read_text().splitlines())
