"""OpenTelemetry spans as logs: what kvsim wrote comes back, and what instrumented agents write is understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvsim
from kvsim.commands.demo import MODEL, example
from kvsim.errors import InputError
from kvsim.logs.otlp import APART, NO_CALL, NO_COUNTS
from kvsim.report.otlp import write_otlp

S = 10**9


def span(id: str, start: float, end: float, above: str = "", trace: str = "t", **told: Any) -> dict[str, Any]:
    kinds = {str: "stringValue", int: "intValue", float: "doubleValue"}
    return {
        "traceId": trace,
        "spanId": id,
        "parentSpanId": above,
        "name": id,
        "startTimeUnixNano": str(int(start * S) + 10**18),
        "endTimeUnixNano": int(end * S) + 10**18,
        "attributes": [{"key": key, "value": {kinds[type(value)]: value}} for key, value in told.items()],
    }


def chat(id: str, start: float, end: float, prompt: int, output: int, **more: Any) -> dict[str, Any]:
    counts = {"gen_ai.usage.input_tokens": prompt, "gen_ai.usage.output_tokens": str(output)}
    above, trace = more.pop("above", ""), more.pop("trace", "t")
    made = span(id, start, end, above, trace, **{"gen_ai.operation.name": "chat"}, **counts, **more)
    for attribute in made["attributes"]:
        if attribute["key"] == "gen_ai.usage.output_tokens":
            attribute["value"] = {"intValue": str(output)}  # both spellings of a 64-bit integer are met
    return made


def read(tmp_path: Path, *spans: dict[str, Any], lenient: bool = False) -> kvsim.Batch:
    path = tmp_path / "spans.json"
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}))
    return kvsim.read(path, lenient=lenient)


@pytest.mark.parametrize("simulated", [False, True])
def test_what_was_exported_comes_back(tmp_path, simulated):
    batch = example()
    price = {"model": MODEL, "gpu": "h100-sxm"}
    result = kvsim.simulate(batch, **price, arrivals="closed:2") if simulated else kvsim.estimate(batch, **price)
    write_otlp(result, tmp_path / "spans.jsonl.gz")
    back = kvsim.read(tmp_path / "spans.jsonl.gz")
    assert back.ids == list(batch.ids)
    for name in ("parent", "after", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "trajectory"):
        np.testing.assert_array_equal(getattr(back, name), getattr(batch, name), err_msg=name)
    assert [back.tool_names[tool] if tool >= 0 else None for tool in back.tool] == [
        batch.tool_names[tool] if tool >= 0 else None for tool in batch.tool
    ]
    np.testing.assert_array_equal(back.e2e_ns, np.rint(result.turns.e2e_s * 1e9))
    np.testing.assert_array_equal(back.ttft_ns, np.rint(result.turns.ttft_s * 1e9))
    np.testing.assert_array_equal(back.cached_tokens, result.turns.cached_tokens)


def test_agents_within_agents_have_contexts_of_their_own(tmp_path):
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": "c"}
    batch = read(
        tmp_path,
        span("main", 0, 20, **agent),
        chat("a", 1, 2, 1000, 50, above="main"),
        span("helper", 3, 9, "tool", **agent),
        span("tool", 2.5, 9.5, "main", **{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "delegate"}),
        chat("b", 4, 5, 400, 20, above="step"),
        span("step", 4, 5, "helper"),
        chat("c", 6, 7, 500, 20, above="helper"),
        chat("d", 10, 11, 1200, 50, above="main"),
    )
    assert batch.ids == ["c"]
    assert batch.parent.tolist() == [-1, -1, 1, 0]
    assert batch.after.tolist() == [-1, 0, 1, 0]
    assert batch.pause_ns.tolist() == [0, 2 * S, S, 8 * S]
    assert batch.kept_tokens.tolist() == [0, 0, 420, 1050]
    assert batch.tool_names[batch.tool[3]] == "delegate"
    assert batch.report.skipped == {NO_CALL: 4}
    assert batch.report.adds_up


def test_a_conversation_goes_on_in_its_next_trace(tmp_path):
    batch = read(
        tmp_path,
        chat("a", 1, 2, 100, 10, trace="1", **{"gen_ai.conversation.id": "c"}),
        chat("b", 5, 6, 200, 10, trace="2", **{"gen_ai.conversation.id": "c"}),
        chat("c", 7, 8, 300, 10, trace="2", **{"gen_ai.conversation.id": "c"}),
        chat("d", 3, 4, 100, 10, trace="3"),
    )
    assert batch.ids == ["c", "3"]
    assert batch.parent.tolist() == [-1, 0, 1, -1]
    assert batch.arrival_ns.tolist() == [0, 0, 0, 2 * S]


def test_openinference_and_older_names_count_too(tmp_path):
    counts = {"llm.token_count.prompt": 90, "llm.token_count.completion": 5, "openinference.span.kind": "LLM"}
    batch = read(
        tmp_path,
        span("a", 1, 2, **counts),
        chat("b", 3, 4, 20, 5, **{"gen_ai.usage.cache_read_input_tokens": 95}),
        span("c", 5, 6, **{"gen_ai.operation.name": "chat", "error.type": "timeout"}),
    )
    assert batch.prompt_tokens.tolist() == [90, 115]
    assert batch.cached_tokens.tolist() == [-1, 95]
    assert batch.report.flagged == {APART: 1}
    assert batch.report.skipped == {NO_COUNTS: 1}


def test_times_that_are_none_are_refused(tmp_path):
    backwards = chat("a", 5, 4, 100, 10)
    with pytest.raises(InputError) as caught:
        read(tmp_path, backwards)
    assert caught.value.field == "endTimeUnixNano"
    assert len(read(tmp_path, backwards, lenient=True)) == 0


def test_spans_in_a_circle_end(tmp_path):
    batch = read(tmp_path, span("x", 0, 9, "y"), span("y", 0, 9, "x"), chat("a", 1, 2, 100, 10, above="x"))
    assert batch.turns == 1
