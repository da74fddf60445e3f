"""Observations of an engine as evidence: kinds that time steps, lone requests, turns under load, serving points."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import log2
from statistics import fmean
from typing import Any

import numpy as np

from ..backends.workload import Starts
from ..errors import InputError
from ..step_logs import LoggedStep, StepLog
from ..trajectory import Batch
from .deployment import Deployment
from .evidence import Loaded, Timed, Together, together
from .observations import Observation, Observations, pack_chunks, pack_decodes, unpack_chunks, unpack_decodes
from .serving_load import Point, point_evidence, turns_evidence
from .step_logs import usual_gap_s, work_left
from .work import Content, Work, decode, prefill

MOST_WAIT = 0.5
"""Time for which the engine's worker waited for a CPU is not the engine's and is taken off; rows of which it is a
larger share are left out."""

STEPS = ("ttft", "decode", "mixed", "step")


def usable(observations: Observations) -> tuple[list[Observation], Counter[str]]:
    """Rows to fit, and why others are not."""
    kept, left_out = [], Counter[str]()
    for row in observations.rows:
        seconds = row.seconds or row.e2e_s or row.ttft_s or 0.0
        if row.flag:
            left_out[row.flag] += 1
        elif seconds and (row.cpu_wait_s or 0.0) > MOST_WAIT * seconds:
            left_out["the engine waited for a CPU"] += 1
        else:
            kept.append(row)
    return kept, left_out


def evidence_of(rows: Sequence[Observation], deployment: Deployment, file: str) -> list[Timed | Together]:
    """Everything that a file's rows say, by kind. Raises InputError naming file and line."""
    found: list[Timed | Together] = []
    loads: list[Loaded] = []
    for kind in STEPS:
        own = [row for row in rows if row.kind == kind]
        own = reduced(own) if kind == "step" else own
        for regime, part in _by_regime(own):
            found.append(_timed(part, kind, regime, deployment, file))
    runs: dict[str, list[Observation]] = defaultdict(list)
    for row in rows:
        if row.kind == "turn":
            runs[row.probe].append(row)
        elif row.kind == "point":
            loads.append(point_evidence(_point(row, file), deployment))
    loads += [_turns(run, name, deployment, file) for name, run in runs.items()]
    return [*found, *together(loads)]


def own_s(row: Observation) -> float:
    """The engine's time, without what its worker waited for a CPU."""
    return (row.engine_s or row.seconds or 0.0) - (row.cpu_wait_s or 0.0)


def step_rows(log: StepLog) -> list[Observation]:
    """The steps of an engine's log that have a time; those of one busy period share a probe."""
    steps = [step for step in log.steps if step.reqs]
    gap_s, rows, period = usual_gap_s(steps), [], 0
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        goes_on = following is not None and work_left(step, following)
        if following is not None and goes_on:
            rows.append(_step_row(step, following.t0 - step.t0, period))
        elif step.t3 is not None:
            rows.append(_step_row(step, step.t3 + gap_s - step.t0, period))
        period += not goes_on
    return rows


def reduced(rows: Iterable[Observation]) -> list[Observation]:
    """Steps of one probe that hold the same chunks beside as many decoding sequences, as one row: the median time over
    mean contexts."""
    alike: dict[tuple[str, int | None, str, int], list[Observation]] = defaultdict(list)
    for row in rows:
        alike[row.probe, row.repeat, row.chunks, len(unpack_decodes(row.decodes))].append(row)
    out = []
    for group in alike.values():
        contexts = np.mean([sorted(unpack_decodes(row.decodes)) for row in group], axis=0)
        middle = sorted(group, key=own_s)[len(group) // 2]
        out.append(
            replace(
                group[0],
                decodes=pack_decodes(round(context) for context in contexts.tolist()),
                seconds=middle.seconds,
                cpu_wait_s=middle.cpu_wait_s,
                steps=sum(row.steps or 1 for row in group),
            )
        )
    return out


def _step_row(step: LoggedStep, seconds: float, period: int) -> Observation:
    return Observation(
        "step",
        seconds=seconds,
        chunks=pack_chunks((work.tokens, work.before) for work in step.reqs if work.tokens > 1),
        decodes=pack_decodes(work.before + 1 for work in step.reqs if work.tokens == 1),
        probe=str(period),
        at_s=step.t0,
        cpu_wait_s=step.wait_ns / 1e9,
    )


def _by_regime(rows: Sequence[Observation]) -> list[tuple[str, list[Observation]]]:
    parts: dict[str, list[Observation]] = {"prefill": [], "decode": []}
    for row in rows:
        decodes = row.kind == "decode" or (row.kind == "step" and not row.chunks)
        parts["decode" if decodes else "prefill"].append(row)
    return [(regime, part) for regime, part in parts.items() if part]


def _timed(rows: Sequence[Observation], kind: str, regime: str, deployment: Deployment, file: str) -> Timed:
    most = deployment.engine.max_num_batched_tokens
    by_engine = [row.kind != "ttft" or row.engine_s is not None for row in rows]
    name = {"ttft": "first tokens", "decode": "decode steps", "mixed": "mixed steps", "step": f"{regime} steps"}[kind]
    model = deployment.architecture.name
    return Timed(
        kind=f"{name}, {model}",
        regime=regime,
        deployment=deployment,
        work=Work.of([_contents(row, most) for row in rows], deployment.window()),
        measured=np.array([own_s(row) for row in rows]),
        groups=np.array([f"{model}/{_configuration(row)}" for row in rows]),
        places=[f"{file}:{row.line}" if row.line else file for row in rows],
        client_tokens=np.array(
            [-1.0 if own else _prompt_tokens(row) for row, own in zip(rows, by_engine, strict=True)]
        ),
    )


def _prompt_tokens(row: Observation) -> int:
    return (row.new_tokens or 0) + (row.cached_tokens or 0)


def _contents(row: Observation, most_tokens: int) -> list[Content]:
    new, cached, batch, context = row.new_tokens or 0, row.cached_tokens or 0, row.batch or 0, row.context_tokens or 0.0
    if row.kind == "ttft":
        return prefill(new, cached, most_tokens)
    if row.kind == "decode":
        return [decode(batch, context)]
    if row.kind == "mixed":
        return [Content([(new, cached)], [context] * batch)]
    return [Content(unpack_chunks(row.chunks), unpack_decodes(row.decodes))]


def _configuration(row: Observation) -> str:
    """What rows that were measured alike have in common: they are held out together."""
    if row.kind == "step":
        decodes = unpack_decodes(row.decodes)
        scale = round(2 * log2(fmean(decodes))) if decodes else 0
        return f"{row.chunks}/{len(decodes)}/{scale}"
    scale = round(2 * log2(row.context_tokens or 1))
    return f"{row.new_tokens}/{row.cached_tokens}/{row.batch}/{scale}"


def _point(row: Observation, file: str) -> Point:
    return Point(
        place=f"{file}:{row.line}",
        prompt_tokens=row.prompt_tokens or 1,
        output_tokens=row.output_tokens or 1,
        concurrency=row.concurrency,
        request_rate=row.request_rate,
        requests=row.requests,
        cached_tokens=row.cached_tokens or 0,
        ttft_s=row.ttft_s,
        tpot_s=row.tpot_s,
        e2e_s=row.e2e_s,
    )


def _turns(rows: Sequence[Observation], run: str, deployment: Deployment, file: str) -> Loaded:
    """A run's turns as a batch: those with an arrival come when they were sent, the others after their pause."""
    ordered = sorted(rows, key=lambda row: (row.trajectory, row.turn or 0))
    names = sorted({row.trajectory for row in ordered})
    columns: dict[str, Any] = defaultdict(list)
    for number, row in enumerate(ordered):
        first = number == 0 or ordered[number - 1].trajectory != row.trajectory
        if not first and row.turn == ordered[number - 1].turn:
            raise InputError(
                f"turn {row.turn} of {row.trajectory!r} stands twice",
                file=file,
                line=row.line,
                field="turn",
                remedy="Give the turns of different runs different probes.",
            )
        before = None if first else ordered[number - 1]
        context = (before.prompt_tokens or 0) + (before.output_tokens or 0) if before else row.kept_tokens or 0
        kept = context if row.kept_tokens is None else row.kept_tokens
        columns["parent"].append(-1 if first else number - 1)
        columns["prefix"].append(0 if first and kept else -1)
        columns["after"].append(-1 if first or row.arrival_s is not None else number - 1)
        columns["kept_tokens"].append(min(kept, context, row.prompt_tokens or 0))
        columns["prompt_tokens"].append(row.prompt_tokens or 1)
        columns["output_tokens"].append(row.output_tokens or 1)
        columns["pause_ns"].append(0 if row.arrival_s is not None else round(1e9 * (row.pause_s or 0.0)))
        columns["arrival_ns"].append(round(1e9 * (row.arrival_s or 0.0)))
        columns["trajectory"].append(names.index(row.trajectory))
        columns["ttft_ns"].append(-1 if row.ttft_s is None else round(1e9 * row.ttft_s))
        columns["e2e_ns"].append(-1 if row.e2e_s is None else round(1e9 * row.e2e_s))
    batch = Batch.from_columns(**columns)
    place = f"{file}, run {run}" if run else file
    kind = f"turns under load, {deployment.architecture.name}"
    return turns_evidence(batch, deployment, starts=Starts(), name=place, kind=kind)
