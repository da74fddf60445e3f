"""What an OpenTelemetry span says of a turn or a trajectory, as OTLP/JSON."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from kvsim.report.texts import quoted

if TYPE_CHECKING:
    from kvsim.estimation import Estimate
    from kvsim.report.spans import Spans
    from kvsim.simulated import Simulation

WHOLE = ("latency_s", "model_s", "gpu_s", "usd", "kv_byte_s")
"""What of a trajectory in all is said."""


def attributes_of(*attributes: str) -> str:
    """The field of a span, a link or a resource."""
    return f'"attributes":[{",".join(attributes)}]'


def text(key: str, value: str) -> str:
    """An attribute that is text."""
    return f'{{"key":"{key}","value":{{"stringValue":{quoted(value)}}}}}'


def integer(key: str, value: int) -> str:
    """An attribute that is a whole number; OTLP/JSON writes 64-bit integers as strings."""
    return f'{{"key":"{key}","value":{{"intValue":"{value}"}}}}'


def real(key: str, value: float) -> str:
    """An attribute that is a finite number."""
    return f'{{"key":"{key}","value":{{"doubleValue":{value!r}}}}}'


def trajectory_attributes(result: Estimate | Simulation) -> list[list[str]]:
    """What every trajectory took and cost in all; what is not known is left out."""
    found: list[list[str]] = [[] for _ in range(len(result.batch))]
    for name in WHOLE:
        for attributes, value in zip(found, getattr(result, name).tolist(), strict=True):
            if isfinite(value):
                attributes.append(real(f"kvsim.{name}", value))
    return found


def turn_attributes(result: Estimate | Simulation, spans: Spans) -> list[list[str]]:
    """Tokens, times and costs of every turn; of one that was not priced or served what the log says, and why."""
    batch, turns = result.batch, result.turns
    logged = {
        "kvsim.turn": spans.number,
        "gen_ai.usage.input_tokens": batch.prompt_tokens,
        "gen_ai.usage.output_tokens": batch.output_tokens,
    }
    counted = {
        "gen_ai.usage.cache_read.input_tokens": turns.cached_tokens,
        "kvsim.recomputed_tokens": turns.recomputed_tokens,
        "kvsim.preemptions": turns.preemptions,
        "kvsim.replica": spans.replica,
        "kvsim.queue_ns": spans.scheduled - spans.released,
        "kvsim.recompute_ns": spans.recomputed - spans.scheduled,
        "kvsim.fresh_prefill_ns": spans.prefilled - spans.recomputed,
        "kvsim.decode_ns": spans.finished - spans.prefilled,
    }
    measured = {
        "gen_ai.response.time_to_first_chunk": turns.ttft_s,
        "kvsim.gpu_s": turns.gpu_s,
        "kvsim.usd": result.usd_of(turns.gpu_s),
        "kvsim.kv_byte_s": turns.kv_byte_s,
    }
    found: list[list[str]] = [[] for _ in range(batch.turns)]
    ok = spans.ok.tolist()
    for columns, only in ((logged, False), (counted, True)):
        for name, counts in columns.items():
            for attributes, priced, value in zip(found, ok, counts.tolist(), strict=True):
                if priced or not only:
                    attributes.append(integer(name, value))
    for name, values in measured.items():
        for attributes, amount in zip(found, values.tolist(), strict=True):
            if isfinite(amount):
                attributes.append(real(name, amount))
    for attributes, status in zip(found, spans.status.tolist(), strict=True):
        if status != "ok":
            attributes.append(text("error.type", status))
    return found
