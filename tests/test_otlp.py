"""OpenTelemetry spans: valid requests of the protocol, names of the conventions, and the result's nanoseconds."""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from cases import batches, columns
from google.protobuf import json_format
from hypothesis import given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, service_attributes
from opentelemetry.semconv.schemas import Schemas
from test_perfetto import NAMES, estimated, hostile, simulated

import kvsim
from kvsim.commands.demo import MODEL, example
from kvsim.errors import InputError
from kvsim.report.otlp import SCHEMA, SPANS_A_LINE, instant_ns, write_otlp

CONVENTIONS = {
    value
    for module in (gen_ai_attributes, error_attributes, service_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}
DEPRECATED = {"gen_ai.system", "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens", "gen_ai.prompt"}
OPERATIONS = {value.value for value in gen_ai_attributes.GenAiOperationNameValues}
BEGINS = 946_684_800 * 10**9


def requests(path) -> list[ExportTraceServiceRequest]:
    """The lines of a file as messages of the protocol, any field that it lacks refused."""
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()
    found = []
    for line in lines:
        document = json.loads(line)
        for part in document["resourceSpans"]:
            for scope in part["scopeSpans"]:
                assert len(scope["spans"]) <= SPANS_A_LINE
                for span in scope["spans"]:
                    for one in (span, *span.get("links", [])):
                        # OTLP/JSON has ids in hexadecimal where the JSON of protobuf has bytes in base 64.
                        for name in {"traceId", "spanId", "parentSpanId"} & set(one):
                            one[name] = base64.b64encode(bytes.fromhex(one[name])).decode()
        found.append(json_format.ParseDict(document, ExportTraceServiceRequest()))
    return found


def value_of(value) -> Any:
    return getattr(value, value.WhichOneof("value"))


def attributes(owner) -> dict[str, Any]:
    keys = [pair.key for pair in owner.attributes]
    assert len(keys) == len(set(keys))
    assert all(key in CONVENTIONS - DEPRECATED or key.startswith("kvsim.") for key in keys), keys
    return {pair.key: value_of(pair.value) for pair in owner.attributes}


def written(result, folder, name="spans.jsonl", **options):
    """The spans of a result by trajectory: the whole, its turns by number, its pauses by the turn that they precede."""
    write_otlp(result, folder / name, **options)
    traces = defaultdict(dict)
    seen = set()
    for request in requests(folder / name):
        (resource,) = request.resource_spans
        (scope,) = resource.scope_spans
        assert resource.schema_url == scope.schema_url == SCHEMA
        assert attributes(resource.resource)["service.name"] == "kvsim"
        for span in scope.spans:
            assert len(span.trace_id) == 16
            assert len(span.span_id) == 8
            assert span.span_id not in seen
            seen.add(span.span_id)
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
            told = attributes(span)
            operation = told.get("gen_ai.operation.name", "pause")
            assert operation in OPERATIONS | {"pause"}
            assert span.name.split(" ")[0] == operation
            assert span.kind == (Span.SPAN_KIND_CLIENT if operation == "chat" else Span.SPAN_KIND_INTERNAL)
            kind = "pause" if operation == "execute_tool" else operation
            traces[span.trace_id][kind, told.get("kvsim.turn", -1)] = (span, told)
    return {trace[("invoke_agent", -1)][1]["gen_ai.conversation.id"]: trace for trace in traces.values()}


def check(result, traces):
    """Every turn and pause is there, within its trajectory, with its tokens and its times."""
    batch, turns = result.batch, result.turns
    assert len(traces) == len(batch)
    numbers = [0] * len(batch)
    for row, trajectory in enumerate(batch.trajectory.tolist()):
        number, numbers[trajectory] = numbers[trajectory], numbers[trajectory] + 1
        trace = traces[batch.ids[trajectory].encode("utf-8", "replace").decode()]
        root, _ = trace["invoke_agent", -1]
        span, told = trace["chat", number]
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
        assert told["gen_ai.request.model"] == MODEL
        assert told["gen_ai.usage.input_tokens"] == batch.prompt_tokens[row]
        assert told["gen_ai.usage.output_tokens"] == batch.output_tokens[row]
        phases = [told.get(f"kvsim.{name}_ns", 0) for name in ("queue", "recompute", "fresh_prefill", "decode")]
        lasts = span.end_time_unix_nano - span.start_time_unix_nano
        assert sum(phases) == lasts
        if turns.status[row] == "ok":
            assert lasts == round(turns.e2e_s[row] * 1e9)
            assert span.start_time_unix_nano == BEGINS + round(turns.release_s[row] * 1e9)
            assert told["gen_ai.usage.cache_read.input_tokens"] == turns.cached_tokens[row]
            assert told["gen_ai.response.time_to_first_chunk"] == turns.ttft_s[row]
            assert span.status.code == Status.STATUS_CODE_UNSET
        else:
            assert told["error.type"] == span.status.message == turns.status[row]
            assert span.status.code == Status.STATUS_CODE_ERROR
        pause_ns = batch.pause_ns[row] if batch.waits[row] else 0
        assert (("pause", number) in trace) == (pause_ns > 0)
        if pause_ns:
            pause, told = trace["pause", number]
            assert pause.end_time_unix_nano == span.start_time_unix_nano
            assert pause.end_time_unix_nano - pause.start_time_unix_nano == pause_ns
            tool = batch.tool_names[batch.tool[row]] if batch.tool is not None and batch.tool[row] >= 0 else None
            assert told.get("gen_ai.tool.name") == tool
    assert [len([key for key in trace if key[0] == "chat"]) for trace in traces.values()] == numbers


@pytest.mark.parametrize("log", ["openhands", "tau-bench", "kv-cache-tester/sessions.jsonl.gz"])
def test_logs_are_valid_spans(log, logs, tmp_path):
    batch = kvsim.read(str(logs / log))
    for result in (estimated(batch), simulated(batch, replicas=2)):
        check(result, written(result, tmp_path))


@settings(max_examples=20, deadline=None)
@given(batch=batches())
def test_any_batch_is_valid_spans(batch, tmp_path_factory):
    result = estimated(batch)
    check(result, written(result, tmp_path_factory.mktemp("spans")))


def test_forks_and_joins_are_links(tmp_path):
    rows = [
        {"prompt_tokens": 900, "output_tokens": 5},
        {"parent": 0, "kept_tokens": 900, "prompt_tokens": 1000},
        {"parent": 0, "kept_tokens": 900, "prompt_tokens": 1000},
        {"parent": 1, "after": 2, "kept_tokens": 900, "prompt_tokens": 1200, "waits_for": [1]},
        {"trajectory": 1, "parent": 3, "kept_tokens": 1100, "prompt_tokens": 1300},
    ]
    traces = written(estimated(columns(rows)), tmp_path)
    ids = {(name, key): span.span_id for name, trace in traces.items() for key, (span, _) in trace.items()}
    found = {
        (name, number): sorted(
            (attributes(link)["kvsim.link"], next(key for key, known in ids.items() if known == link.span_id))
            for link in span.links
        )
        for name, trace in traces.items()
        for (kind, number), (span, _) in trace.items()
        if kind == "chat"
    }
    assert found == {
        ("0", 0): [],
        ("0", 1): [],
        ("0", 2): [("after", ("0", ("chat", 0)))],
        ("0", 3): [("context", ("0", ("chat", 1))), ("join", ("0", ("chat", 1)))],
        ("1", 0): [("after", ("0", ("chat", 3)))],
    }


def test_ids_are_of_the_trajectory_and_nothing_else(tmp_path):
    batch = example()
    known = written(estimated(batch), tmp_path)
    again = written(simulated(batch.select([2])), tmp_path)
    for name, trace in again.items():
        for key, (span, _) in trace.items():
            other, _ = known[name][key]
            assert (span.trace_id, span.span_id) == (other.trace_id, other.span_id)


def test_any_name_is_a_name(tmp_path):
    assert len(written(estimated(hostile()), tmp_path)) == len(NAMES)


def test_turns_that_cannot_be_priced_are_errors(tmp_path):
    batch = columns([{"prompt_tokens": 50_000}, {"prompt_tokens": 900, "trajectory": 1}])
    for result in (estimated(batch), simulated(batch)):
        check(result, written(result, tmp_path))


def test_long_files_are_many_requests(tmp_path):
    rows = [{"prompt_tokens": 10, "trajectory": n} for n in range(SPANS_A_LINE)]
    result = estimated(columns(rows))
    check(result, written(result, tmp_path, "spans.jsonl.gz"))
    assert len(requests(tmp_path / "spans.jsonl.gz")) == 2
    assert gzip.decompress((tmp_path / "spans.jsonl.gz").read_bytes()).count(b"\n") == 2


def test_time_begins_when_told(tmp_path):
    at = instant_ns("2026-02-03T04:05:06.000007+01:00")
    assert at == 1_770_087_906_000_007_000
    assert instant_ns("2026-02-03T03:05:06.000007Z") == instant_ns("2026-02-03T03:05:06.000007") == at
    result = estimated(columns([{}]))
    ((span, _),) = [
        pair for key, pair in written(result, tmp_path, begins_ns=at)["0"].items() if key[0] == "invoke_agent"
    ]
    assert span.start_time_unix_nano == at
    for wrong in ("yesterday", "1969-12-31", "2026-02-30", "9999-01-01", ""):
        with pytest.raises(InputError, match="begins"):
            instant_ns(wrong)


def test_the_conventions_are_those_of_the_schema():
    assert SCHEMA in {schema.value for schema in Schemas}
    assert np.isin(sorted(DEPRECATED), sorted(CONVENTIONS)).all()
