"""SWE-agent's trajectories: calls and commands, what they brought, times; and what kv-cache-tester's prompts hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import InputError
from kvsim.logs import read, read_with_text
from kvsim.trajectory import SEGMENT_KINDS


def write(path: Path, run: dict[str, Any]) -> str:
    path.write_text(json.dumps(run))
    return str(path)


COMMANDS = {
    "environment": "swe_main",
    "trajectory": [
        {"action": "ls\n", "observation": "a.py", "execution_time": 0.5},
        {"action": "submit", "observation": "", "execution_time": 2.0},
    ],
    "history": [
        {"role": "system", "content": "SETTING: a shell", "agent": "main"},
        {"role": "user", "content": "ISSUE: it fails", "agent": "main"},
        {
            "role": "assistant",
            "content": "I look.\n```\nls\n```",
            "thought": "I look.",
            "action": "ls\n",
            "agent": "main",
        },
        {"role": "user", "content": "a.py\nbash-$", "agent": "main"},
        {"role": "assistant", "content": "Done.\n```\nsubmit\n```", "action": "submit", "agent": "main"},
    ],
}


def test_a_run_with_tool_calls(logs: Path) -> None:
    batch, said = read_with_text(str(logs / "swe-agent" / "function_calling_simple.traj"))
    assert batch.report is not None
    assert list(batch.report.formats) == ["swe-agent"]
    assert (len(batch), batch.turns, batch.report.tool_results) == (1, 5, 5)
    assert said[0].wrote is not None
    assert said[0].wrote.calls[0].name == batch.tool_names[batch.tool[1]]


def test_commands_in_the_text_are_calls_and_what_they_print_is_a_response(tmp_path: Path) -> None:
    batch, said = read_with_text(write(tmp_path / "run.traj", COMMANDS))
    assert list(batch.tool_names) == ["ls"]
    assert batch.pause_ns.tolist() == [0, 500_000_000]
    assert [call.arguments for call in said[0].wrote.calls] == ["ls"]  # type: ignore[union-attr]
    assert [(part.role, part.tool) for part in said[1].read] == [("tool", "ls")]
    assert batch.segments is not None
    assert batch.segments.kind.tolist()[-1] == SEGMENT_KINDS.index("tool")
    assert read(str(tmp_path)).turns == 2  # folders are searched for .traj


def test_a_broken_run_is_an_error_with_its_place(tmp_path: Path) -> None:
    broken = write(tmp_path / "run.traj", {**COMMANDS, "history": [{"content": "no role"}]})
    with pytest.raises(InputError, match=r"run\.traj"):
        read(broken)


def test_weka_says_what_prompts_are_made_of(logs: Path) -> None:
    batch = read(str(logs / "kv-cache-tester" / "derived.excerpt.jsonl"))
    parts = batch.segments
    assert parts is not None
    kinds = [SEGMENT_KINDS[kind] for kind in parts.kind.tolist()]
    assert kinds[:3] == ["tools", "system", "user"]
    assert "tool" in kinds[3:]
    assert parts.tokens[:3].sum() == batch.prompt_tokens[0]
