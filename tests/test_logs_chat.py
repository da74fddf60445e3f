"""OpenAI-style logs: conversations and requests, with and without usage; what usage objects mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvsim.errors import InputError
from kvsim.logs import read
from kvsim.logs.chat import IMAGE
from kvsim.logs.kept import REWRITTEN
from kvsim.logs.messages import NO_OUTPUT_COUNT, from_messages
from kvsim.logs.requests import COMPACTED
from kvsim.logs.usage import Usage
from kvsim.trajectory import SEGMENT_KINDS, Batch

SYSTEM = {"role": "system", "content": "You are an agent. " * 10}
ASK = {"role": "user", "content": "Weather in Paris and Rome?"}


def call(*names: str) -> dict[str, Any]:
    calls = [{"id": f"id-{name}", "function": {"name": name, "arguments": "{}"}} for name in names]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(name: str, text: str = "sunny " * 20) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"id-{name}", "content": text}


ANSWER = {"role": "assistant", "content": "Sunny in both."}
CHAT = [SYSTEM, ASK, call("paris", "rome"), result("paris"), result("rome"), ANSWER]


def usage(prompt: int, output: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, **more}


def written(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def segments(batch: Batch, row: int) -> list[tuple[str, str | None, int]]:
    assert batch.segments is not None
    at = range(int(batch.segments.offsets[row]), int(batch.segments.offsets[row + 1]))
    names = [*batch.tool_names, None]
    columns = (batch.segments.kind, batch.segments.tool, batch.segments.tokens)
    return [(SEGMENT_KINDS[k], names[t], n) for k, t, n in ([int(c[i]) for c in columns] for i in at)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}}, (100, 7, 64)),
        ({"prompt_tokens": 100, "completion_tokens": 7, "prompt_cache_hit_tokens": 90}, (100, 7, 90)),
        ({"input_tokens": 100, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 64}}, (100, 7, 64)),
        (
            {"input_tokens": 3, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 77, "output_tokens": 7},
            (100, 7, 77),
        ),
        ({"input_tokens": 100, "output_tokens": 7, "cache_read_input_tokens": 77, "total_tokens": 107}, (100, 7, 77)),
        ({"input_tokens": 23, "output_tokens": 7, "cache_read_input_tokens": 77, "total_tokens": 107}, (100, 7, 77)),
        ({"input_tokens": 100, "output_tokens": 7}, (100, 7, -1)),
        ({"prompt_tokens": 100}, (100, -1, -1)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({}, None),
    ],
)
def test_what_usage_means(given: dict[str, Any], expected: tuple[int, int, int] | None) -> None:
    assert msgspec.convert(given, Usage).counts() == expected


def test_conversation_with_usage(tmp_path: Path) -> None:
    counts = [usage(60, 18), usage(92, 9, prompt_tokens_details={"cached_tokens": 64})]
    batch = read(written(tmp_path, {"id": "s", "messages": CHAT, "usage": counts}))
    assert batch.parent.tolist() == [-1, 0]
    assert batch.prompt_tokens.tolist() == [60, 92]
    assert batch.kept_tokens.tolist() == [0, 78]
    assert batch.cached_tokens is not None
    assert batch.cached_tokens.tolist() == [-1, 64]
    assert batch.estimated_share == 0
    assert [kind for kind, _, _ in segments(batch, 0)] == ["system", "user"]
    assert segments(batch, 1) == [("tool", "paris", 7), ("tool", "rome", 7)]
    assert batch.tool_names[batch.tool[1]] == "rome"  # type: ignore[index]


def test_usage_in_messages_and_in_part(tmp_path: Path) -> None:
    chat = [ASK, call("a") | {"usage": usage(50, 5)}, result("a"), ANSWER]
    batch = read(written(tmp_path, chat))
    assert batch.prompt_tokens[0] == 50
    assert batch.prompt_tokens[1] > 55
    assert batch.kept_tokens.tolist() == [0, 55]
    assert batch.estimated_tokens is not None
    assert batch.estimated_tokens[0] == 0
    assert batch.estimated_tokens[1] == batch.prompt_tokens[1] - 55 + batch.output_tokens[1]


def test_reasoning_that_does_not_come_back(tmp_path: Path) -> None:
    batch = read(written(tmp_path, {"messages": CHAT, "usage": [usage(60, 500), usage(92, 9)]}))
    assert batch.kept_tokens.tolist() == [0, 60]
    assert batch.report is not None
    assert batch.report.flagged == {REWRITTEN: 1}
    assert [kind for kind, _, _ in segments(batch, 1)] == ["own", "tool", "tool"]
    assert sum(tokens for _, _, tokens in segments(batch, 1)) == 32


def test_compaction_in_a_conversation(tmp_path: Path) -> None:
    batch = read(written(tmp_path, {"messages": CHAT, "usage": [usage(600, 5), usage(92, 9)]}))
    assert batch.kept_tokens.tolist() == [0, 0]


def test_wrong_number_of_usage_objects(tmp_path: Path) -> None:
    path = written(tmp_path, {"messages": CHAT, "usage": usage(60, 18)}, {"messages": CHAT})
    with pytest.raises(InputError, match="1 usage objects for 2 assistant messages") as caught:
        read(path)
    assert (caught.value.line, caught.value.field) == (1, "usage")
    report = read(path, lenient=True).report
    assert report is not None
    assert report.adds_up


def test_messages_after_the_last_call_are_counted(tmp_path: Path) -> None:
    report = read(written(tmp_path, {"messages": [*CHAT, ASK]}, {"messages": [SYSTEM, ASK]})).report
    assert report is not None
    assert report.skipped == {"message after the last call": 1, "message of a conversation without a call": 2}
    assert (report.used, report.tool_results) == (6, 2)
    assert report.adds_up


def test_layouts_of_one_conversation(tmp_path: Path) -> None:
    expected = from_messages([CHAT]).prompt_tokens.tolist()
    for number, text in enumerate(
        [
            json.dumps(CHAT),
            json.dumps(CHAT, indent=1),
            json.dumps({"messages": CHAT}, indent=2),
            json.dumps([{"messages": CHAT}]),
            json.dumps(CHAT) + "\n" + json.dumps(CHAT),
        ]
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        batch = read(path)
        assert batch.prompt_tokens.tolist() == expected * len(batch)
        assert len(batch) == 1 + (number == 4)


def request(messages: list[Any], answer: Any, prompt: int | None, output: int = 10, **more: Any) -> dict[str, Any]:
    response: dict[str, Any] = {"choices": [{"message": answer}]}
    if prompt is not None:
        response["usage"] = usage(prompt, output)
    return {"messages": messages, "response": response, **more}


def test_growing_requests_become_one_trajectory(tmp_path: Path) -> None:
    first = request(CHAT[:2], call("a"), 100, timestamp=10.0, latency_sec=2.0)
    grown = [*CHAT[:2], call("a"), result("a")]
    second = request(grown, ANSWER, 150, timestamp=15.0, latency_sec=1.0)
    other = request([SYSTEM, {"role": "user", "content": "Else"}], ANSWER, 90, timestamp=11.0, latency_sec=0.5)
    batch = read(written(tmp_path, second, other, first))  # times decide, not the order in the file
    assert batch.prompt_tokens.tolist() == [100, 90, 150]
    assert batch.parent.tolist() == [-1, -1, 0]
    assert batch.trajectory.tolist() == [0, 1, 0]
    assert batch.kept_tokens.tolist() == [0, 0, 110]
    assert batch.pause_ns.tolist() == [0, 0, 4 * 10**9]
    assert batch.arrival_ns.tolist() == [0, 25 * 10**8, 0]
    assert batch.e2e_ns is not None
    assert batch.e2e_ns.tolist() == [2 * 10**9, 5 * 10**8, 10**9]
    assert batch.report is not None
    assert batch.report.adds_up


def test_requests_without_usage_are_estimated(tmp_path: Path) -> None:
    grown = [*CHAT[:2], call("a"), result("a")]
    batch = read(written(tmp_path, request(CHAT[:2], call("a"), None), request(grown, ANSWER, None)))
    alone = from_messages([[*grown, ANSWER]])
    assert batch.estimated_share == 1
    assert batch.kept_tokens[1] == batch.prompt_tokens[0] + batch.output_tokens[0]
    assert abs(int(batch.prompt_tokens[1] - alone.prompt_tokens[1])) <= 4


def test_forks_and_samples(tmp_path: Path) -> None:
    root = request(CHAT[:2], call("a"), 100)
    branches = [request([*CHAT[:2], call("a"), result("a", text)], ANSWER, 150) for text in ("x" * 50, "y" * 50)]
    batch = read(written(tmp_path, root, *branches, request(CHAT[:2], ANSWER, 100)))
    assert batch.parent.tolist() == [-1, 0, 0, -1]
    assert batch.trajectory.tolist() == [0, 0, 0, 1]  # a second sample of one prompt is its own trajectory


def test_compaction_in_a_named_session(tmp_path: Path) -> None:
    long = [*CHAT[:2], call("a"), result("a", "z" * 3500)]
    summary = [SYSTEM, {"role": "user", "content": "Summary so far"}]
    batch = read(
        written(
            tmp_path,
            *(request(m, a, p, session_id="s") for m, a, p in ((CHAT[:2], call("a"), 80), (long, ANSWER, 1200))),
            request(summary, ANSWER, 70, session_id="s"),
        )
    )
    assert len(batch) == 1
    assert batch.after.tolist() == [-1, 0, 1]
    assert 0 < batch.kept_tokens[2] < 70
    assert batch.report is not None
    assert batch.report.flagged[COMPACTED] == 1


def test_answers_that_came_back_changed(tmp_path: Path) -> None:
    changed = [*CHAT[:2], {"role": "assistant", "content": "something else"}, ASK]
    batch = read(written(tmp_path, request(CHAT[:2], ANSWER, 100), request(changed, ANSWER, 130)))
    assert batch.kept_tokens.tolist() == [0, 100]
    assert batch.trajectory.tolist() == [0, 0]
    assert [kind for kind, _, _ in segments(batch, 1)] == ["own", "user"]


@pytest.mark.parametrize("folder", ["llm-logs", "nonfncall-llm-logs"])
def test_openhands_sdk_logs(logs: Path, folder: str) -> None:
    batch = read(logs / "openhands-sdk" / folder)
    assert len(batch) == 1
    assert batch.parent.tolist() == [-1, 0, 1]
    length = batch.prompt_tokens + batch.output_tokens
    assert batch.kept_tokens[1:].tolist() == length[:-1].tolist()
    assert (batch.pause_ns[1:] > 0).all()
    assert batch.cached_tokens is not None
    assert (batch.cached_tokens[1:] <= batch.prompt_tokens[1:]).all()


def test_tau_bench(logs: Path) -> None:
    batch = read(logs / "tau-bench/gpt-4o-airline.excerpt.json")
    assert len(batch) == 3
    assert batch.estimated_share == 1
    assert (batch.prompt_tokens[batch.parent >= 0] > batch.kept_tokens[batch.parent >= 0]).all()
    assert batch.report is not None
    assert batch.report.adds_up


def test_rewinding_to_the_middle_of_a_prompt(tmp_path: Path) -> None:
    long = [*CHAT[:2], call("a"), result("a"), ASK]
    edited = [*long[:-1], {"role": "user", "content": "No, Berlin"}]
    root, grown, back = request(CHAT[:2], call("a"), 80), request(long, ANSWER, 150), request(edited, ANSWER, 145)
    batch = read(written(tmp_path, root, grown, back))
    assert len(batch) == 1
    assert batch.parent.tolist() == [-1, 0, 1]
    assert 90 < batch.kept_tokens[2] < 145


def test_parts_of_other_apis_are_counted(tmp_path: Path) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "grep", "input": {"pattern": "x" * 700}}
    chat = [
        ASK,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "y" * 350}, use]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "z" * 7000}]},
                {"type": "image", "source": {"type": "base64", "data": "abc"}},
                {"type": "hologram"},
            ],
        },
        ANSWER,
    ]
    batch = read(written(tmp_path, {"id": "s", "messages": chat}))
    assert 300 <= batch.output_tokens[0] <= 320
    assert batch.prompt_tokens[1] - batch.kept_tokens[1] >= 2000
    assert segments(batch, 1)[-1][:2] == ("tool", "grep")
    assert batch.report is not None
    assert batch.report.tool_results == 1
    assert batch.report.flagged[IMAGE] == 1
    assert sum("hologram" in remark for remark in batch.report.flagged) == 1


def test_answers_that_differ_in_reasoning_only(tmp_path: Path) -> None:
    short, long = ({"role": "assistant", "content": "ok", "reasoning_content": "r" * n} for n in (35, 3500))
    batch = from_messages([[ASK, short], [ASK, long]])
    assert batch.output_tokens.tolist() == [11, 1001]


def stamped(moment: Any, *messages: Any) -> dict[str, Any]:
    response = {"choices": [{"message": ANSWER}], "usage": usage(50 * len(messages), 5)}
    return {"session_id": "s", "messages": list(messages), "response": response, "timestamp": moment, "latency_sec": 1}


def test_timestamps_as_text(tmp_path: Path) -> None:
    moments = "2025-01-31T12:00:00Z", "2025-01-31T14:00:03.5+02:00"
    batch = read(written(tmp_path, stamped(moments[0], ASK), stamped(moments[1], ASK, ANSWER, ASK)))
    assert batch.pause_ns.tolist() == [0, 2_500_000_000]
    assert batch.e2e_ns is not None
    assert batch.e2e_ns.tolist() == [10**9, 10**9]


@pytest.mark.parametrize("moment", ["yesterday", "12:00", "1738324800", "1901-01-01T00:00:00Z"])
def test_timestamps_that_are_none(tmp_path: Path, moment: str) -> None:
    with pytest.raises(InputError) as caught:
        read(written(tmp_path, stamped(moment, ASK)))
    assert caught.value.field == "timestamp"
    assert caught.value.line == 1


def test_usage_without_an_output_count(tmp_path: Path) -> None:
    chat = [ASK, {"role": "assistant", "content": "x" * 350}, ASK, ANSWER]
    counts = [{"prompt_tokens": 20}, {"prompt_tokens": 140, "completion_tokens": 4}]
    batch = read(written(tmp_path, {"id": "s", "messages": chat, "usage": counts}))
    assert batch.prompt_tokens.tolist() == [20, 140]
    assert batch.output_tokens.tolist() == [100, 4]
    assert batch.estimated_tokens is not None
    assert batch.estimated_tokens.tolist() == [100, 0]
    assert batch.report is not None
    assert batch.report.flagged[NO_OUTPUT_COUNT] == 1
    response = {"choices": [{"message": chat[1]}], "usage": {"prompt_tokens": 20}}
    batch = read(written(tmp_path, {"messages": [ASK], "response": response}))
    assert batch.output_tokens.tolist() == [100]
    assert batch.estimated_tokens is not None
    assert batch.estimated_tokens.tolist() == [100]


def test_more_cached_than_sent(tmp_path: Path) -> None:
    counts = [usage(60, 18), usage(40, 9, prompt_tokens_details={"cached_tokens": 64})]
    path = written(tmp_path, {"id": "s", "messages": CHAT, "usage": counts})
    with pytest.raises(InputError):
        read(path)
    batch = read(path, lenient=True)
    assert batch.kept_tokens.tolist() == [0, 0]
    assert batch.cached_tokens is None
    assert batch.report is not None
    assert [remark for remark in batch.report.flagged if "cached_tokens" in remark]
