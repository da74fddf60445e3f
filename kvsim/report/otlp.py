"""Results as OpenTelemetry spans with gen_ai attributes: OTLP/JSON, one ExportTraceServiceRequest a line.

A trace for each trajectory: a span ``invoke_agent`` around a span ``chat`` for each turn and a span ``execute_tool``
for each tool pause. Names and attributes follow the semantic conventions for generative AI (1.44: "Development"), and
input tokens include the cached ones; what they have no name for stands under ``kvsim.``, times of phases in whole
nanoseconds. Ids are hashes of trajectory, kind and turn, so that the same trajectory has the same ids in every export.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from kvsim.errors import InputError
from kvsim.estimation import Estimate
from kvsim.report.files import write_text
from kvsim.report.otlp_attributes import attributes_of, integer, text, trajectory_attributes, turn_attributes
from kvsim.report.spans import Spans, spans_of
from kvsim.report.texts import label, quoted

if TYPE_CHECKING:
    from kvsim.simulated import Simulation

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
PROVIDER = "vllm"
"""The provider of the model: the engine whose times these are."""

SPANS_A_LINE = 1_000
INTERNAL, CLIENT = 1, 3
"""Kinds of span."""

ERROR = 2
"""The status of a turn that was not priced or served."""

LATEST_NS = 1 << 62
"""Times count nanoseconds from 1970; well before their 64 bits end."""

Links = dict[int, list[tuple[str, int]]]


def write_otlp(
    result: Estimate | Simulation, path: str | os.PathLike[str], *, begins_ns: int = 946_684_800 * 10**9
) -> None:
    """Write an estimate or a simulation as spans, gzipped where ``path`` ends in ``.gz``.

    begins_ns: when the result's time begins, in nanoseconds since 1970 (by default the year 2000); spans need a date.
    Raises :class:`kvsim.errors.InputError` where the file cannot be written.
    """
    write_text(path, _lines(result, begins_ns))


def instant_ns(text: str) -> int:
    """A date and time in ISO 8601 as nanoseconds since 1970; UTC unless it says otherwise."""
    remedy = "Give one from 1970 on, say 2026-01-31T12:00:00"
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        raise InputError(f"{text!r} is no date and time", field="begins", remedy=remedy) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    past = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    nanoseconds = (past.days * 86_400 + past.seconds) * 10**9 + past.microseconds * 1000
    if not 0 < nanoseconds < LATEST_NS // 2:
        raise InputError(f"{text!r} is out of range", field="begins", remedy=remedy)
    return nanoseconds


def _lines(result: Estimate | Simulation, begins_ns: int) -> Iterator[str]:
    from kvsim import __version__

    pricing = result.pricing
    resource = attributes_of(
        text("service.name", "kvsim"),
        text("service.version", __version__),
        text("kvsim.result", type(result).__name__.lower()),
        text("kvsim.gpu", pricing.gpu.id),
    )
    scope = f'{{"name":"kvsim","version":"{__version__}"}}'
    head = f'{{"resourceSpans":[{{"resource":{{{resource}}},"scopeSpans":[{{"scope":{scope},"spans":['
    tail = f'],"schemaUrl":"{SCHEMA}"}}],"schemaUrl":"{SCHEMA}"}}]}}\n'
    spans = _spans(result, begins_ns)
    while block := list(islice(spans, SPANS_A_LINE)):
        yield head + ",".join(block) + tail


def _spans(result: Estimate | Simulation, begins_ns: int) -> Iterator[str]:
    """The spans of one trajectory after the other."""
    batch, spans = result.batch, spans_of(result)
    if int(spans.finished.max(initial=0)) + begins_ns > LATEST_NS:
        raise InputError("the last turn is beyond the dates that spans have", field="begins", remedy="Begin earlier")
    order = np.argsort(batch.trajectory, kind="stable")
    ends = np.searchsorted(batch.trajectory[order], np.arange(len(batch) + 1))
    traces = [_hash(16, name.encode("utf-8", "surrogatepass")) for name in batch.ids]
    links = _links(result, spans)
    whole, turns = trajectory_attributes(result), turn_attributes(result, spans)
    starts, finishes = (spans.paused + begins_ns).tolist(), (spans.finished + begins_ns).tolist()
    releases = (spans.released + begins_ns).tolist()
    numbers, ok, status = spans.number.tolist(), spans.ok.tolist(), spans.status.tolist()
    trajectory, tool = batch.trajectory.tolist(), batch.tool.tolist() if batch.tool is not None else None
    model = result.pricing.architecture.name
    chat = quoted(f"chat {model}")
    common = [
        text("gen_ai.operation.name", "chat"),
        text("gen_ai.provider.name", PROVIDER),
        text("gen_ai.request.model", model),
    ]
    for number, name in enumerate(batch.ids):
        rows = order[ends[number] : ends[number + 1]].tolist()
        trace = traces[number]
        root = _hash(8, trace, b"trajectory")
        conversation = text("gen_ai.conversation.id", name)
        yield _span(
            trace,
            root,
            None,
            '"invoke_agent"',
            INTERNAL,
            (min(starts[row] for row in rows), max(finishes[row] for row in rows)),
            attributes_of(text("gen_ai.operation.name", "invoke_agent"), *common[1:], conversation, *whole[number]),
        )
        for row in rows:
            if starts[row] < releases[row]:
                name_of_tool = batch.tool_names[tool[row]] if tool is not None and tool[row] >= 0 else None
                yield _pause(trace, root, numbers[row], name_of_tool, (starts[row], releases[row]), conversation)
            more = f',"status":{{"code":{ERROR},"message":"{status[row]}"}}' if not ok[row] else ""
            if row in links:
                more += _linked(links[row], traces, trajectory, numbers)
            yield _span(
                trace,
                _turn(trace, numbers[row]),
                root,
                chat,
                CLIENT,
                (releases[row], finishes[row]),
                attributes_of(*common, conversation, *turns[row]),
                more,
            )


def _pause(
    trace: bytes, root: bytes, number: int, tool: str | None, between: tuple[int, int], conversation: str
) -> str:
    """The pause before a turn: a tool that ran, or whatever the log does not say."""
    if tool is None:
        name, known = '"pause"', []
    else:
        name = quoted(f"execute_tool {label(tool)}")
        known = [text("gen_ai.operation.name", "execute_tool"), text("gen_ai.tool.name", tool)]
    attributes = attributes_of(*known, conversation, integer("kvsim.turn", number))
    return _span(trace, _hash(8, trace, b"pause", str(number).encode()), root, name, INTERNAL, between, attributes)


def _links(result: Estimate | Simulation, spans: Spans) -> Links:
    """By row what it comes after beside the turn before it in its trajectory, and why."""
    batch = result.batch
    trajectory, number, rows = batch.trajectory, spans.number, np.arange(batch.turns)
    after, parent = batch.after, batch.parent
    beside = (trajectory[after] != trajectory) | (number[after] != number - 1)
    edges = [
        ("after", rows[(after >= 0) & beside], after),
        ("context", rows[(parent >= 0) & (parent != after)], parent),
    ]
    found: Links = defaultdict(list)
    for why, of, sources in edges:
        for row, source in zip(of.tolist(), sources[of].tolist(), strict=True):
            found[row].append((why, source))
    if batch.waits_for is not None:
        for row, source in zip(batch.waits_for.owners.tolist(), batch.waits_for.values.tolist(), strict=True):
            found[row].append(("join", source))
    return found


def _linked(links: list[tuple[str, int]], traces: list[bytes], trajectory: list[int], numbers: list[int]) -> str:
    parts = []
    for why, row in links:
        trace = traces[trajectory[row]]
        attributes = attributes_of(text("kvsim.link", why))
        parts.append(f'{{"traceId":"{trace.hex()}","spanId":"{_turn(trace, numbers[row]).hex()}",{attributes}}}')
    return f',"links":[{",".join(parts)}]'


def _span(
    trace: bytes,
    span: bytes,
    parent: bytes | None,
    name: str,
    kind: int,
    between: tuple[int, int],
    attributes: str,
    more: str = "",
) -> str:
    above = f'"parentSpanId":"{parent.hex()}",' if parent else ""
    return (
        f'{{"traceId":"{trace.hex()}","spanId":"{span.hex()}",{above}"name":{name},"kind":{kind},'
        f'"startTimeUnixNano":"{between[0]}","endTimeUnixNano":"{between[1]}",{attributes}{more}}}'
    )


def _turn(trace: bytes, number: int) -> bytes:
    return _hash(8, trace, b"turn", str(number).encode())


def _hash(length: int, *parts: bytes) -> bytes:
    return sha256(b"\0".join((b"kvsim", *parts))).digest()[:length]
