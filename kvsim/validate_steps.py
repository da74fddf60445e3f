"""Replay step logs of the real vLLM engine through kvsim's scheduler and compare every decision.

Arrivals and step times come from the log; who runs, how many tokens, what is cached, evicted, preempted and free is
decided by kvsim. :mod:`kvsim.step_logs` says what a folder of logs holds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from kvsim.backends.contexts import contexts_of
from kvsim.backends.engine_kernels import Settings
from kvsim.backends.stepping import Step, stepper
from kvsim.step_logs import LoggedStep, Run, batch_of, find_logs, read_log, runs_of, without_suffix

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
    checked = Checked()
    for path in find_logs(directory):
        log = read_log(path)
        runs, reason = runs_of(log)
        timed = [run for run in runs if all(turn.t_queued is not None for turn in run.turns)]
        if not timed:
            checked.not_replayable[str(path.relative_to(directory))] = reason or "turns without t_queued"
        checked.runs += [_replay(run, log.engine.settings, f"{path.parent.name}/{run.name}", backend) for run in timed]
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


def _replay(run: Run, settings: Settings, name: str, backend: str) -> RunCheck:
    """Feed the arrivals before each logged step, and compare what kvsim would do."""
    nothing = [0] * len(run.turns)
    batch = batch_of(run.turns, run.plan, pause_ns=nothing, arrival_ns=nothing)
    engine = stepper(backend, settings, contexts_of(batch, settings.block_size))
    arrivals_s = [(turn.t_queued or 0.0) + run.start_s for turn in run.turns]
    coming = sorted(range(batch.turns), key=lambda row: (arrivals_s[row], row))
    preemptions: dict[str, int] = defaultdict(int)
    seen: set[str] = set()
    check = RunCheck(name)
    arrived = 0
    for logged in run.steps:
        while arrived < len(coming) and arrivals_s[coming[arrived]] <= logged.t0 + SAME_INSTANT_S:
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
            check.difference = check.difference or _difference(logged.i, decided, expected)
        finished = engine.update()
        wrong = [row for row in finished if engine.cached_tokens(row) != run.turns[row].cached_tokens]
        if wrong and decided == expected:
            check.different += 1
            check.difference = check.difference or f"{run.turns[wrong[0]].request_id} finished with other cached tokens"
    if arrived < len(coming):
        check.different += 1
        check.difference = check.difference or f"{len(coming) - arrived} turns arrive after the last logged step"
    return check


def _as_logged(run: Run, step: Step, preemptions: dict[str, int], seen: set[str]) -> dict[str, Any]:
    """A step in the words of the log."""
    for row in step.preempted:
        preemptions[run.turns[row].request_id] += 1
        seen.discard(run.turns[row].request_id)
    work = []
    for row, before, tokens in step.work:
        name = run.turns[row].request_id
        work.append([name, before, tokens, int(name not in seen), preemptions[name]])
        seen.add(name)
    return {
        "reqs": work,
        "preempted": [run.turns[row].request_id for row in step.preempted],
        "evicted": step.evicted,
        "free": step.free_blocks,
        "running": step.running,
        "waiting": step.waiting,
    }


def _decisions(logged: LoggedStep) -> dict[str, Any]:
    """What a logged step decided; request ids lose the suffix that the engine gives them."""
    work = [[without_suffix(name), *rest] for name, *rest in logged.reqs]
    preempted = [without_suffix(name) for name in logged.preempted]
    plain = {name: getattr(logged, name) for name in ("evicted", "free", "running", "waiting")}
    return {"reqs": work, "preempted": preempted, **plain}


def _difference(number: int, decided: dict[str, Any], expected: dict[str, Any]) -> str:
    what = [f"{name} {decided[name]}, logged {expected[name]}" for name in expected if decided[name] != expected[name]]
    return f"step {number}: " + "; ".join(what)
