"""Results in the Trace Event Format, as ui.perfetto.dev and chrome://tracing open it.

A process for each engine, a thread for each trajectory (more where its turns run at the same time), slices nested as
trajectory > turn > queue, recompute, fresh prefill, decode, with tool pauses between turns; arrows from a turn to those
that start elsewhere because of it; counters from the timeline of a simulation. The format counts microseconds; they are
written with three decimals, so that slices add up to the same nanoseconds as the result.
Format: "Trace Event Format", Google, phases M, X, C, i, s, f.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from kvsim.estimation import Estimate
from kvsim.report.files import write_text
from kvsim.report.lanes import Lanes, lanes_of
from kvsim.report.spans import PHASES, Spans, spans_of
from kvsim.report.texts import label, quoted

if TYPE_CHECKING:
    from kvsim.simulated import Simulation

COUNTERS = {
    "kv_use": ("KV cache", "% in use", 100.0),
    "running": ("running", "requests", 1.0),
    "waiting": ("waiting", "requests", 1.0),
    "hit_rate": ("hit rate", "%", 100.0),
}
"""Columns of a timeline as counters: name, series, and what one is worth."""

TOTALS = ("latency_s", "model_s", "fresh_prefill_s", "recompute_s", "decode_s", "gpu_s", "usd", "joules", "kv_byte_s")


def write_perfetto(result: Estimate | Simulation, path: str | os.PathLike[str]) -> None:
    """Write an estimate or a simulation as one trace, gzipped where ``path`` ends in ``.gz``.

    The counters are those of the simulation's timeline; there are none without one. Turns that were not priced or
    served are instants named by their status. Raises :class:`kvsim.errors.InputError` where it cannot be written.
    """
    write_text(path, _text(result))


def _text(result: Estimate | Simulation) -> Iterator[str]:
    yield f'{{"displayTimeUnit":"ms","otherData":{_facts(result)},"traceEvents":[\n'
    mark = ""
    for event in events(result):
        yield f"{mark}{event}"
        mark = ",\n"
    yield "\n]}\n"


def events(result: Estimate | Simulation) -> Iterator[str]:
    """The trace's events, each a JSON object."""
    spans = spans_of(result)
    lanes = lanes_of(result.batch, spans)
    replicas = 1 if isinstance(result, Estimate) else len(result.replicas)
    yield from _processes(result, replicas)
    yield from _slices(result, spans, lanes, first_tid=replicas + 1)
    yield from _arrows(result, spans, lanes, first_tid=replicas + 1)
    if not isinstance(result, Estimate) and result.bin_ns:
        yield from _counters(result)


def _processes(result: Estimate | Simulation, replicas: int) -> Iterator[str]:
    setting = f"{result.pricing.architecture.name} on {result.pricing.gpu.id}"
    for replica in range(replicas):
        name = f"{setting}, each trajectory alone" if isinstance(result, Estimate) else f"engine {replica}: {setting}"
        head = f'"ph":"M","pid":{replica + 1},"tid":0'
        yield f'{{{head},"name":"process_name","args":{{"name":{quoted(label(name))}}}}}'
        yield f'{{{head},"name":"process_sort_index","args":{{"sort_index":{replica}}}}}'


def _slices(result: Estimate | Simulation, spans: Spans, lanes: Lanes, first_tid: int) -> Iterator[str]:
    """Lane by lane its name, the slice of the trajectory on the first one of it, then pauses and turns."""
    batch = result.batch
    order = np.argsort(lanes.of_turn, kind="stable")  # rows of a lane, before they are put in order of time
    order = order[np.lexsort((spans.released[order], spans.paused[order], lanes.of_turn[order]))]
    ends = np.searchsorted(lanes.of_turn[order], np.arange(len(lanes.replica) + 1))
    whole = _whole(lanes, spans)
    trajectories, turns = _trajectory_arguments(result), _turn_arguments(result, spans.ok.tolist())
    tool = batch.tool.tolist() if batch.tool is not None else [-1] * batch.turns
    paused, finished, ok = spans.paused.tolist(), spans.finished.tolist(), spans.ok.tolist()
    edges = np.stack([spans.released, spans.scheduled, spans.recomputed, spans.prefilled, spans.finished], 1).tolist()
    numbers, status = spans.number.tolist(), spans.status.tolist()
    for lane, (replica, trajectory, branch) in enumerate(
        zip(lanes.replica, lanes.trajectory, lanes.branch, strict=True)
    ):
        where = f'"pid":{replica + 1},"tid":{first_tid + lane}'
        name = label(batch.ids[trajectory])
        named = quoted(f"{name} ({branch + 1})" if branch else name)
        yield f'{{"ph":"M",{where},"name":"thread_name","args":{{"name":{named}}}}}'
        yield f'{{"ph":"M",{where},"name":"thread_sort_index","args":{{"sort_index":{lane}}}}}'
        if not branch:
            yield _slice(where, *whole[replica, trajectory], quoted(name), "trajectory", trajectories[trajectory])
        for row in order[ends[lane] : ends[lane + 1]].tolist():
            instants = edges[row]
            if paused[row] < instants[0]:
                waited = quoted(label(batch.tool_names[tool[row]]) if tool[row] >= 0 else "pause")
                yield _slice(where, paused[row], instants[0], waited, "tool pause")
            turn = f'"turn {numbers[row]}"'
            if not ok[row]:
                yield (
                    f'{{"ph":"i","s":"t",{where},"ts":{_us(instants[0])},"name":"{status[row]}","cat":"turn",'
                    f'"args":{turns[row]}}}'
                )
                continue
            yield _slice(where, instants[0], finished[row], turn, "turn", turns[row])
            for phase, start, end in zip(PHASES, instants[:-1], instants[1:], strict=True):
                if start < end:
                    yield _slice(where, start, end, f'"{phase}"', "phase")


def _whole(lanes: Lanes, spans: Spans) -> dict[tuple[int, int], tuple[int, int]]:
    """From when to when each trajectory has to do with each engine that it meets."""
    starts = np.full(len(lanes.replica), np.iinfo(np.int64).max)
    ends = np.zeros(len(lanes.replica), np.int64)
    np.minimum.at(starts, lanes.of_turn, spans.paused)
    np.maximum.at(ends, lanes.of_turn, spans.finished)
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for owner, start, end in zip(
        zip(lanes.replica, lanes.trajectory, strict=True), starts.tolist(), ends.tolist(), strict=True
    ):
        before = found.get(owner, (start, end))
        found[owner] = (min(start, before[0]), max(end, before[1]))
    return found


def _arrows(result: Estimate | Simulation, spans: Spans, lanes: Lanes, first_tid: int) -> Iterator[str]:
    """From a turn to those that start on another lane when it has finished, extend its context, or wait for it too."""
    batch = result.batch
    rows = np.arange(batch.turns)
    sources, targets = [batch.after, batch.parent], [rows, rows]
    drawn = [batch.after >= 0, (batch.parent >= 0) & (batch.parent != batch.after)]
    kinds = ["next", "context"]
    if batch.waits_for is not None:
        sources.append(batch.waits_for.values)
        targets.append(batch.waits_for.owners)
        drawn.append(np.ones(len(batch.waits_for.values), bool))
        kinds.append("join")
    number = 0
    for kind, source, target, wanted in zip(kinds, sources, targets, drawn, strict=True):
        wanted = wanted & (source != lanes.previous[target]) & spans.ok[source] & spans.ok[target]
        wanted &= (spans.released[source] < spans.finished[source]) & (spans.finished[source] <= spans.released[target])
        for one, other in zip(source[wanted].tolist(), target[wanted].tolist(), strict=True):
            number += 1
            # An arrow leaves and meets the slices that are open at its ends: a slice is closed at its end.
            ends = (("s", one, int(spans.finished[one]) - 1), ("f", other, int(spans.released[other])))
            for phase, row, instant in ends:
                lane = int(lanes.of_turn[row])
                where = f'"pid":{lanes.replica[lane] + 1},"tid":{first_tid + lane}'
                bound = ',"bp":"e"' if phase == "f" else ""
                yield (
                    f'{{"ph":"{phase}"{bound},"id":{number},{where},"ts":{_us(instant)},"name":"{kind}","cat":"flow"}}'
                )


def _counters(result: Simulation) -> Iterator[str]:
    timeline = result.timeline
    replica = timeline.replica.tolist()
    instants = (np.rint(timeline.time_s * 1e9).astype(np.int64)).tolist()
    for column, (name, series, unit) in COUNTERS.items():
        before: tuple[int, float] | None = None
        for at, value in enumerate(timeline[column].tolist()):
            if not isfinite(value) or before == (replica[at], value):
                continue
            before = (replica[at], value)
            yield (
                f'{{"ph":"C","pid":{replica[at] + 1},"ts":{_us(instants[at])},"name":"{name}","cat":"engine",'
                f'"args":{{"{series}":{value * unit:.6g}}}}}'
            )


def _slice(where: str, start_ns: int, end_ns: int, name: str, category: str, arguments: str = "") -> str:
    given = f',"args":{arguments}' if arguments else ""
    return (
        f'{{"ph":"X",{where},"ts":{_us(start_ns)},"dur":{_us(end_ns - start_ns)},"name":{name},"cat":"{category}"'
        f"{given}}}"
    )


def _us(nanoseconds: int) -> str:
    """Microseconds, exactly."""
    return f"{nanoseconds // 1000}.{nanoseconds % 1000:03d}"


def _facts(result: Estimate | Simulation) -> str:
    from kvsim import __version__

    pricing = result.pricing
    facts = {"kvsim": __version__, "model": pricing.architecture.name, "gpu": pricing.gpu.id}
    return "{" + ",".join(f'"{name}":{quoted(value)}' for name, value in facts.items()) + "}"


def _trajectory_arguments(result: Estimate | Simulation) -> list[str]:
    """Name and totals of each trajectory; what is not known is left out."""
    batch = result.batch
    names = [*TOTALS, *(() if isinstance(result, Estimate) else ("queue_s",))]
    columns: dict[str, list[float]] = {name: getattr(result, name).tolist() for name in names}
    columns |= {"cached_tokens": result.cached_tokens.tolist(), "recomputed_tokens": result.recomputed_tokens.tolist()}
    columns["turns"] = np.bincount(batch.trajectory, minlength=len(batch)).tolist()
    return [
        "{" + f'"id":{quoted(name)}' + "".join(_fields(columns, number)) + "}" for number, name in enumerate(batch.ids)
    ]


def _turn_arguments(result: Estimate | Simulation, ok: list[bool]) -> list[str]:
    """Tokens and costs of each turn; of one that was not priced or served what the log says."""
    batch, turns = result.batch, result.turns
    logged: dict[str, list[float]] = {
        "row": list(range(batch.turns)),
        "prompt_tokens": batch.prompt_tokens.tolist(),
        "kept_tokens": batch.kept_tokens.tolist(),
        "output_tokens": batch.output_tokens.tolist(),
    }
    counted = ["cached_tokens", "recomputed_tokens"]
    counted += [] if isinstance(result, Estimate) else ["loaded_tokens", "preemptions"]
    whole = logged | {name: turns[name].tolist() for name in (*counted, "gpu_s", "kv_byte_s")}
    whole["usd"] = result.usd_of(turns.gpu_s).tolist()
    return ["{" + "".join(_fields(whole if ok[row] else logged, row))[1:] + "}" for row in range(batch.turns)]


def _fields(columns: dict[str, list[float]], at: int) -> Iterator[str]:
    for name, values in columns.items():
        if (value := values[at]) == value:
            yield f',"{name}":{value!r}'
