"""Replay step logs of the real vLLM engine through kvsim's scheduler and compare every decision.

Arrivals and step times come from the log; who runs, how many tokens, what is cached, evicted, preempted and free is
decided by kvsim. A folder holds ``steps_ENGINE.jsonl[.gz]`` (one line a step, after one line ``init``),
``turns_ENGINE.jsonl`` (one line a turn), ``plan_RUN.json`` (the workload) and ``runs.jsonl`` (when each run began).
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from kvsim.backends.contexts import contexts_of
from kvsim.backends.engine_kernels import LRU, NO_CACHE, Settings
from kvsim.backends.stepping import Step, stepper
from kvsim.errors import InputError
from kvsim.trajectory import Batch

SAME_INSTANT_S = 1e-9
"""Logged times are sums of floats: an arrival so little after a step's start still joins it."""


@dataclass
class RunCheck:
    """How one logged run compares; ``difference`` describes the first step that differs."""

    run: str
    steps: int = 0
    evicted: int = 0
    preempted: int = 0
    different: int = 0
    difference: str = ""


@dataclass
class Checked:
    """All logs under a folder: the runs compared, and why other logs could not be."""

    runs: list[RunCheck] = field(default_factory=list)
    not_replayable: dict[str, str] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether there was something to compare and nothing differed."""
        return bool(self.runs) and not any(run.different for run in self.runs)

    @property
    def summary(self) -> str:
        steps, evicted, preempted, different = (
            sum(getattr(run, name) for run in self.runs) for name in ("steps", "evicted", "preempted", "different")
        )
        return (
            f"{len(self.runs)} runs, {steps:,} steps, {evicted:,} evictions, {preempted} preemptions: "
            f"{different} steps differ"
        )


def validate_steps(directory: str | Path, *, backend: str = "native") -> Checked:
    """Replay every log below ``directory``. Raises :class:`InputError` where there is none."""
    logs = sorted([*Path(directory).rglob("steps_*.jsonl"), *Path(directory).rglob("steps_*.jsonl.gz")])
    if not logs:
        raise InputError("no steps_*.jsonl[.gz] below it", file=str(directory), remedy="Give a folder of step logs")
    checked = Checked()
    for log in logs:
        name = str(log.relative_to(directory))
        runs, reason = _runs_of(log)
        if reason:
            checked.not_replayable[name] = reason
        checked.runs += [_replay(run, backend) for run in runs]
    return checked


def report(directory: str | Path, out: TextIO, *, backend: str = "native") -> int:
    """Print a line for each run and log, the count last; returns the exit status, 1 if anything differs."""
    checked = validate_steps(directory, backend=backend)
    for name, reason in checked.not_replayable.items():
        print(f"{name}: not replayable, {reason}", file=out)
    for run in checked.runs:
        verdict = f"{run.different} steps differ; {run.difference}" if run.different else "equal"
        figures = f"{run.steps} steps, {run.evicted} evictions, {run.preempted} preemptions"
        print(f"{run.run}: {figures}: {verdict}", file=out)
    print(checked.summary, file=out)
    return 0 if checked.exact else 1


@dataclass
class _Run:
    name: str
    settings: Settings
    batch: Batch
    requests: list[str]  # the request id of each row
    arrivals_s: list[float]
    cached_tokens: list[int]
    steps: list[dict[str, Any]]


def _runs_of(log: Path) -> tuple[list[_Run], str]:
    """The runs of a log that can be replayed, or the reason why there is none."""
    engine = log.name.removeprefix("steps_").removesuffix(".gz").removesuffix(".jsonl")
    turns_file = log.with_name(f"turns_{engine}.jsonl")
    if not turns_file.exists():
        return [], f"no {turns_file.name}"
    turns = defaultdict(list)
    for turn in _lines(turns_file):
        turns[turn["run"]].append(turn)
    starts = {run["run"]: run["t0"] for run in _lines(log.with_name("runs.jsonl"))}
    init, *steps = _lines(log)
    if init.get("async_scheduling"):
        return [], "asynchronous scheduling"
    by_run = defaultdict(list)
    for step in steps:
        for run in {_run_of(work[0]) for work in step["reqs"]}:
            by_run[run].append(step)
    runs = []
    reason = "no run with plan, turns and start"
    for name, own in turns.items():
        plan_file = log.with_name(f"plan_{name}.json")
        if not plan_file.exists() or name not in starts:
            continue
        if not all("t_queued" in turn for turn in own):
            reason = "turns without t_queued"
            continue
        plan = json.loads(plan_file.read_text())
        runs.append(_run(f"{log.parent.name}/{name}", _settings(init), plan, own, starts[name], by_run[name]))
    return runs, "" if runs else reason


def _run(
    name: str, settings: Settings, plan: dict[str, Any], turns: list[dict[str, Any]], start: float, steps: list[Any]
) -> _Run:
    """A session's turns extend each other; sessions share the beginning of their system prompt."""
    turns = sorted(turns, key=lambda turn: (turn["session"], turn["turn"]))
    columns: dict[str, Any] = defaultdict(list)
    for row, turn in enumerate(turns):
        root = turn["turn"] == 0
        before = turns[row - 1]
        shared = plan["sessions"][turn["session"]]["shared_system"]
        columns["parent"].append(-1 if root else row - 1)
        columns["kept_tokens"].append(shared if root else before["prompt_tokens"] + before["output_tokens"])
        columns["prefix"].append(0 if root and shared else -1)
        columns["prompt_tokens"].append(turn["prompt_tokens"])
        columns["output_tokens"].append(turn["output_tokens"])
        columns["trajectory"].append(turn["session"])
    nothing = np.zeros(len(turns), np.int64)
    return _Run(
        name=name,
        settings=settings,
        batch=Batch.from_columns(**columns, pause_ns=nothing, arrival_ns=nothing),
        requests=[turn["request_id"] for turn in turns],
        arrivals_s=[turn["t_queued"] + start for turn in turns],
        cached_tokens=[turn["cached_tokens"] for turn in turns],
        steps=steps,
    )


def _settings(init: dict[str, Any]) -> Settings:
    return Settings(
        block_size=init["block_size"],
        num_gpu_blocks=init["num_blocks"],
        max_num_batched_tokens=init["max_num_batched_tokens"],
        max_num_seqs=init["max_num_seqs"],
        long_prefill_token_threshold=init["long_prefill_token_threshold"],
        watermark_blocks=init["watermark_blocks"],
        scheduler_reserve_full_isl=int(init["reserve_full_isl"]),
        enable_chunked_prefill=int(init["chunked_prefill"]),
        priority=int(str(init["policy"]).upper().endswith("PRIORITY")),
        retention=LRU if init["prefix_caching"] else NO_CACHE,
        async_scheduling=0,
    )


def _replay(run: _Run, backend: str) -> RunCheck:
    """Feed the arrivals before each logged step, and compare what kvsim would do."""
    engine = stepper(backend, run.settings, contexts_of(run.batch, run.settings.block_size))
    coming = sorted(range(run.batch.turns), key=lambda row: (run.arrivals_s[row], row))
    preemptions: dict[str, int] = defaultdict(int)
    seen: set[str] = set()
    check = RunCheck(run.name)
    arrived = 0
    for logged in run.steps:
        while arrived < len(coming) and run.arrivals_s[coming[arrived]] <= logged["t0"] + SAME_INSTANT_S:
            engine.arrive(coming[arrived])
            arrived += 1
        step = engine.schedule()
        decided = _as_logged(run, step, preemptions, seen)
        expected = _decisions(logged)
        check.steps += 1
        check.evicted += step.evicted
        check.preempted += len(step.preempted)
        if decided != expected:
            check.different += 1
            check.difference = check.difference or _difference(logged["i"], decided, expected)
        finished = engine.update()
        wrong = [row for row in finished if engine.cached_tokens(row) != run.cached_tokens[row]]
        if wrong and decided == expected:
            check.different += 1
            check.difference = check.difference or f"{run.requests[wrong[0]]} finished with other cached tokens"
    if arrived < len(coming):
        check.different += 1
        check.difference = check.difference or f"{len(coming) - arrived} turns arrive after the last logged step"
    return check


def _as_logged(run: _Run, step: Step, preemptions: dict[str, int], seen: set[str]) -> dict[str, Any]:
    """A step in the words of the log."""
    for row in step.preempted:
        preemptions[run.requests[row]] += 1
        seen.discard(run.requests[row])
    work = []
    for row, before, tokens in step.work:
        name = run.requests[row]
        work.append([name, before, tokens, int(name not in seen), preemptions[name]])
        seen.add(name)
    return {
        "reqs": work,
        "preempted": [run.requests[row] for row in step.preempted],
        "evicted": step.evicted,
        "free": step.free_blocks,
        "running": step.running,
        "waiting": step.waiting,
    }


def _decisions(logged: dict[str, Any]) -> dict[str, Any]:
    """What a logged step decided; request ids lose the suffix that the engine gives them."""
    work = [[_without_suffix(name), *rest] for name, *rest in logged["reqs"]]
    preempted = [_without_suffix(name) for name in logged["preempted"]]
    plain = {name: logged[name] for name in ("evicted", "free", "running", "waiting")}
    return {"reqs": work, "preempted": preempted, **plain}


def _difference(number: int, decided: dict[str, Any], expected: dict[str, Any]) -> str:
    what = [f"{name} {decided[name]}, logged {expected[name]}" for name in expected if decided[name] != expected[name]]
    return f"step {number}: " + "; ".join(what)


def _run_of(request: str) -> str:
    return request.split("/")[0]


def _without_suffix(request: str) -> str:
    return request.rsplit("-", 1)[0]


def _lines(path: Path) -> Iterator[Any]:
    raw = path.read_bytes()
    for line in (gzip.decompress(raw) if path.suffix == ".gz" else raw).splitlines():
        yield json.loads(line)
