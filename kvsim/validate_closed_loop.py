"""Logged runs of the real engine predicted in closed loop: their plan in, everything else kvsim's.

A law of step times is fitted to the sweeps of a folder alone; the runs beside them are held out. A run's plan (turn
lengths, pauses, session starts) and its engine's limits are given; who runs when, what is cached, and when a session
goes on is simulated. ``manifest.json`` says which logs of the folder are sweeps, and of which model each log is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from kvsim.backends.contexts import contexts_of, step_law
from kvsim.backends.engine_kernels import NO_PLAN, Settings
from kvsim.backends.serving import ALONE, serve, timeline_of
from kvsim.backends.workload import Starts, workload_of
from kvsim.calibrate.robust import Accuracy, Array, Fit
from kvsim.calibrate.step_logs import (
    Client,
    LoggedProbe,
    StepCost,
    Steps,
    client_of,
    fit_steps,
    joined,
    steps_of,
)
from kvsim.errors import InputError
from kvsim.step_logs import (
    LoggedStep,
    Plan,
    Run,
    StepLog,
    batch_of,
    engine_name,
    find_logs,
    read_json,
    read_lines,
    read_log,
    runs_of,
)

BAR = 0.05
"""Error of a run's mean E2E that passes whatever the spread of its repeats."""

ALONE_S = 1e5
"""Between the starts of sessions that are to be alone."""

SWEEPS = {"prefill", "decode"}
"""Jobs of the manifest whose logs a law is fitted to."""


class _Job(msgspec.Struct):
    job: str


class _Engine(msgspec.Struct):
    model: str
    jobs: list[_Job] = []


class _Manifest(msgspec.Struct):
    engines: dict[str, _Engine]
    models: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class SweepFit:
    """What the sweeps of a model in one folder say."""

    folder: str
    model: str
    sweeps: list[str]
    steps: int
    cost: StepCost
    fit: Fit
    client: Client
    """Medians of the sweeps' single requests, zeros where there are none."""


class Turns(NamedTuple):
    """Turns of a run, predicted or measured, in the order of sessions and turns."""

    cached_tokens: Array
    ttft_s: Array
    e2e_s: Array


@dataclass(frozen=True)
class RunPrediction:
    """One held-out run."""

    name: str
    setting: tuple[str, ...]
    """Folder, engine and kind of work: runs of one setting differ by seed at most."""
    plan: Plan
    law: SweepFit
    predicted: Turns
    measured: Turns
    own_speed: Turns
    """Predicted again, with the law as much faster or slower as the machine was in this run."""
    predict_alone: Callable[[], Turns]
    steps: Steps
    evicted: int
    waited_share: float
    """Share of the time in steps for which the worker was ready to run but had no CPU."""

    @property
    def error(self) -> float:
        """Of mean E2E, as a fraction."""
        return _error(self.predicted.e2e_s, self.measured.e2e_s)

    @property
    def ttft_error(self) -> float:
        """Of mean TTFT."""
        return _error(self.predicted.ttft_s, self.measured.ttft_s)

    @property
    def own_speed_error(self) -> float:
        """Of mean E2E with the run's own speed."""
        return _error(self.own_speed.e2e_s, self.measured.e2e_s)

    @property
    def steps_error(self) -> float:
        """Of the summed times of the logged steps, their contents as logged."""
        return float(self.law.cost.of(self.steps).sum() / self.steps.seconds.sum()) - 1

    @property
    def same_cached(self) -> int:
        """Turns with the cached tokens of the real engine."""
        return int((self.predicted.cached_tokens == self.measured.cached_tokens).sum())

    @cached_property
    def turn_accuracy(self) -> Accuracy:
        """E2E turn by turn."""
        return Accuracy.of(np.log(self.measured.e2e_s / self.predicted.e2e_s))

    @cached_property
    def alone(self) -> Turns:
        """Predicted again, each session by itself and with everything kept."""
        return self.predict_alone()

    @property
    def correlation(self) -> float:
        """Pearson's r of E2E, turn by turn."""
        return pearson(self.predicted.e2e_s, self.measured.e2e_s)


@dataclass(frozen=True)
class Repeats:
    """How far real runs of one plan on one engine lie from each other: the largest difference of two means over
    the mean (E2E, TTFT), and turn by turn the averages over all pairs (share of equal cached tokens, E2E)."""

    spread: float
    ttft_spread: float
    same_cached: float
    turn_median: float
    turn_mape: float
    correlation: float


@dataclass(frozen=True)
class ClosedLoop:
    """All held-out runs below a folder, and why others could not be predicted."""

    fits: list[SweepFit]
    runs: list[RunPrediction]
    not_predicted: dict[str, str]
    models: dict[str, dict[str, Any]]
    """Their configurations, as far as the manifests have them."""

    @cached_property
    def repeats(self) -> dict[tuple[str, ...], Repeats]:
        """By setting; settings that were run once are left out."""
        by_plan: dict[tuple[str, ...], list[list[RunPrediction]]] = defaultdict(list)
        for run in self.runs:
            alike = [group for group in by_plan[run.setting] if group[0].plan == run.plan]
            if alike:
                alike[0].append(run)
            else:
                by_plan[run.setting].append([run])
        found = {setting: _repeats([g for g in groups if len(g) > 1]) for setting, groups in by_plan.items()}
        return {setting: repeats for setting, repeats in found.items() if repeats}

    def allowed(self, run: RunPrediction) -> float:
        """The error of mean E2E that passes: the bar, or the spread of the setting's repeats."""
        repeats = self.repeats.get(run.setting)
        return max(BAR, repeats.spread if repeats else 0.0)

    def inside(self, run: RunPrediction) -> bool:
        """Whether mean E2E passes."""
        return abs(run.error) <= self.allowed(run)

    def inside_at_own_speed(self, run: RunPrediction) -> bool:
        """Whether it would pass if the machine's speed in that run were known."""
        return abs(run.own_speed_error) <= self.allowed(run)


def predict_runs(directory: str | Path, *, backend: str = "auto") -> ClosedLoop:
    """Fit the sweeps and predict the runs of every folder below ``directory``.

    Raises :class:`InputError` naming file and line where logs cannot be read, and where there is nothing to predict.
    """
    fits: list[SweepFit] = []
    runs: list[RunPrediction] = []
    not_predicted: dict[str, str] = {}
    models: dict[str, dict[str, Any]] = {}
    by_folder = defaultdict(list)
    for path in find_logs(directory):
        by_folder[path.parent].append(path)
    for folder, paths in by_folder.items():
        manifest = read_json(folder / "manifest.json", _Manifest)
        models |= manifest.models
        sweeps, others = _split(paths, manifest)
        readable = []
        for path in others:
            log = read_log(path)
            logged, reason = runs_of(log)
            model = manifest.engines[log.name].model if log.name in manifest.engines else ""
            if logged and model not in sweeps:
                reason = f"no sweeps of {model or 'its model'} beside it"
            if reason:
                not_predicted[str(path.relative_to(directory))] = reason
            else:
                readable.append((log, logged, model))
        name = folder.name if folder == Path(directory) else str(folder.relative_to(directory))
        laws = {model: _fit(name, model, logs) for model, logs in sweeps.items()}
        for log, logged, model in readable:
            runs += [_predict(run, log, laws[model], backend) for run in logged]
        fits += laws.values()
    if not runs:
        raise InputError(
            "no run with sweeps beside it",
            file=str(directory),
            remedy="A folder needs step logs of sweeps and of runs, with turns, plans, runs.jsonl and manifest.json",
        )
    return ClosedLoop(fits, runs, not_predicted, models)


def _split(paths: Sequence[Path], manifest: _Manifest) -> tuple[dict[str, list[StepLog]], list[Path]]:
    """Sweeps by model, and all other logs."""
    sweeps: dict[str, list[StepLog]] = defaultdict(list)
    others = []
    for path in paths:
        engine = manifest.engines.get(engine_name(path))
        if engine and engine.jobs and {job.job for job in engine.jobs} <= SWEEPS:
            sweeps[engine.model].append(read_log(path))
        else:
            others.append(path)
    return sweeps, others


def _fit(folder: str, model: str, logs: Sequence[StepLog]) -> SweepFit:
    steps = joined(steps_of(log.steps) for log in logs)
    cost, found = fit_steps(steps)
    clients = []
    for log in logs:
        probes = log.path.with_name("prefill.jsonl")
        if probes.exists():
            clients += client_of(log, read_lines(probes, LoggedProbe))
    client = Client(*np.median(clients, axis=0).tolist()) if clients else Client(0.0, 0.0)
    return SweepFit(folder, model, [log.name for log in logs], len(steps.seconds), cost, found, client)


def _predict(run: Run, log: StepLog, law: SweepFit, backend: str) -> RunPrediction:
    measured = _measured(run, log)
    steps = steps_of(run.steps)
    settings = log.engine.settings
    if not len(steps.seconds):
        raise InputError(f"no timed step of run {run.name}", file=str(log.path), field="t3")
    speed = float(steps.seconds.sum() / law.cost.of(steps).sum())

    def simulated(cost: StepCost, **changed: bool) -> Turns:
        return _simulated(run, settings, cost, law.client, backend, **changed)

    return RunPrediction(
        name=f"{law.folder}/{run.name}",
        setting=(law.folder, log.name, run.plan.work.name if run.plan.work else run.name),
        plan=run.plan,
        law=law,
        predicted=simulated(law.cost),
        measured=measured,
        own_speed=simulated(law.cost.scaled(speed)),
        predict_alone=partial(simulated, law.cost, alone=True),
        steps=steps,
        evicted=sum(step.evicted for step in run.steps),
        waited_share=_waited(run.steps),
    )


def _measured(run: Run, log: StepLog) -> Turns:
    """What the clients saw. Raises :class:`InputError` where turns are missing or are not those of the plan."""
    planned = planned_turns(run.plan)
    logged = [(turn.session, turn.turn, turn.prompt_tokens, turn.output_tokens) for turn in run.turns]
    file = str(log.path.with_name(f"turns_{log.name}.jsonl"))
    if logged != planned:
        raise InputError(f"the turns of run {run.name} are not those of its plan", file=file)
    times = [(turn.cached_tokens, turn.ttft_s, turn.e2e_s) for turn in run.turns]
    if any(ttft_s is None or e2e_s is None for _, ttft_s, e2e_s in times):
        raise InputError(f"run {run.name} has turns without a time", file=file, field="ttft_s, e2e_s")
    return Turns(*np.array(times, np.float64).T)


class PlannedTurn(NamedTuple):
    """One turn of a plan."""

    session: int
    turn: int
    prompt_tokens: int
    output_tokens: int


def planned_turns(plan: Plan) -> list[PlannedTurn]:
    """The lengths of all turns, session by session: each prompt holds everything before it."""
    turns = []
    for number, session in enumerate(plan.sessions):
        context = session.shared_system
        for turn, planned in enumerate(session.turns):
            context += planned.append
            turns.append(PlannedTurn(number, turn, context, planned.output))
            context += planned.output
    return turns


def _simulated(
    run: Run, settings: Settings, cost: StepCost, client: Client, backend: str, alone: bool = False
) -> Turns:
    """The run as its clients would see it: their own way to the engine and back is part of every turn."""
    turns = planned_turns(run.plan)
    pauses_s = [
        run.plan.sessions[turn.session].turns[turn.turn - 1].pause + sum(client) if turn.turn else 0.0 for turn in turns
    ]
    starts_s = [run.plan.sessions[turn.session].start + client.to_engine_s for turn in turns]
    if alone:
        starts_s = [turn.session * ALONE_S for turn in turns]
        blocks = sum(turn.prompt_tokens + turn.output_tokens for turn in turns) // settings.block_size + len(turns)
        settings = settings._replace(num_gpu_blocks=max(settings.num_gpu_blocks, blocks + 1))
    batch = batch_of(turns, run.plan, *([round(1e9 * time) for time in times] for times in (pauses_s, starts_s)))
    law = cost.law(
        tokens=settings.max_num_batched_tokens,
        sequences=settings.max_num_seqs,
        max_model_len=max(turn.prompt_tokens + turn.output_tokens for turn in turns),
        held_tokens=settings.num_gpu_blocks * settings.block_size,
    )
    nobody = np.zeros(batch.turns, np.int64)
    contexts, workload = contexts_of(batch, settings.block_size), workload_of(batch, Starts(), nobody)
    served, _ = serve(backend)(settings, step_law(law), contexts, workload, NO_PLAN, ALONE, timeline_of(1))
    outside_s = sum(client)
    return Turns(
        served.cached_tokens.astype(np.float64),
        (served.first_token_ns - served.release_ns) / 1e9 + outside_s,
        (served.finish_ns - served.release_ns) / 1e9 + outside_s,
    )


def _repeats(groups: Sequence[Sequence[RunPrediction]]) -> Repeats | None:
    """Of runs grouped by plan; the group that spreads most stands for the setting."""
    pairs = [(a.measured, b.measured) for group in groups for a in group for b in group if a is not b]
    if not pairs:
        return None
    apart = [Accuracy.of(np.log(a.e2e_s / b.e2e_s)) for a, b in pairs]
    return Repeats(
        spread=max(_spread([run.measured.e2e_s for run in group]) for group in groups),
        ttft_spread=max(_spread([run.measured.ttft_s for run in group]) for group in groups),
        same_cached=float(np.mean([np.mean(a.cached_tokens == b.cached_tokens) for a, b in pairs])),
        turn_median=float(np.mean([accuracy.median for accuracy in apart])),
        turn_mape=float(np.mean([accuracy.mape for accuracy in apart])),
        correlation=float(np.mean([pearson(a.e2e_s, b.e2e_s) for a, b in pairs])),
    )


def pearson(one: Array, other: Array) -> float:
    """Pearson's r; NaN where one of them is constant, or there is one value only."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _spread(runs: Sequence[Array]) -> float:
    """The largest difference of two runs' means over the mean of all."""
    means = [float(times.mean()) for times in runs]
    return (max(means) - min(means)) / float(np.mean(means))


def _waited(steps: Sequence[LoggedStep]) -> float:
    spans = [(step.wait_ns, step.t3 - step.t0) for step in steps if step.t3 is not None]
    return sum(wait for wait, _ in spans) / 1e9 / sum(span for _, span in spans) if spans else float("nan")


def _error(predicted: Array, measured: Array) -> float:
    return float(predicted.mean() / measured.mean()) - 1
