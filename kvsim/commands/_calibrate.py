"""What ``kvsim calibrate`` does: measure, fit, write, and say how good it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from kvsim.calibrate.fitted import Fitted, prior_of
from kvsim.calibrate.measured import fit_observations
from kvsim.calibrate.observation_files import read_observations
from kvsim.calibrate.render import to_toml
from kvsim.commands._console import asides, results, warn
from kvsim.commands._outputs import require_free
from kvsim.engine import EngineConfig
from kvsim.errors import InputError
from kvsim.hardware import gpu as gpu_of
from kvsim.live.in_process import InProcess
from kvsim.live.measure import Target, measure
from kvsim.live.server import Server
from kvsim.live.turns import PredictedRun, predict, runs_of

if TYPE_CHECKING:
    from kvsim.live.campaign import Outcome
    from kvsim.live.engine import LiveEngine


@dataclass(frozen=True)
class How:
    """Options that all ways of calibrating share. ``arguments``: the engine's, as far as given."""

    gpu: str | None
    model: str | None
    arguments: Mapping[str, Any]
    prior: str | None
    only_overheads: bool
    output: str
    force: bool


def from_files(files: Sequence[str], how: How, *, format: str, lenient: bool) -> None:
    """Fit files of measurements."""
    from kvsim.calibrate.measured import fit_files

    require_free([how.output], force=how.force)
    fitted = fit_files(
        files,
        gpu=how.gpu,
        model=how.model,
        engine=EngineConfig(**how.arguments) if how.arguments else None,
        prior=how.prior,
        only_overheads=how.only_overheads,
        format=format,
        lenient=lenient,
    )
    _finish(fitted, how)


def from_server(
    url: str, how: How, minutes: float, served_model_name: str | None, api_key: str | None, timeout_s: float
) -> None:
    """Measure a server and fit."""

    async def run() -> tuple[Target, Outcome]:
        async with Server(url, model=served_model_name, api_key=api_key, silence_s=timeout_s) as server:
            return await _measured(server, how, minutes)

    _fit_measured(*asyncio.run(run()), how)


def from_process(model: str, how: How, minutes: float, vllm_arguments: Sequence[str]) -> None:
    """Measure vLLM in this process and fit."""
    arguments = {**how.arguments, **dict(map(_argument, vllm_arguments))}

    async def run() -> tuple[Target, Outcome]:
        async with InProcess(model, arguments) as engine:
            return await _measured(engine, how, minutes)

    _fit_measured(*asyncio.run(run()), how)


async def _measured(engine: LiveEngine, how: How, minutes: float) -> tuple[Target, Outcome]:
    if how.gpu is None:
        raise InputError("on which GPU?", field="gpu", remedy="Give --gpu; 'kvsim profiles list' shows all")
    prior_of(gpu_of(how.gpu), how.prior, "")  # fails before the measuring, not after it
    file = Path(how.output).with_suffix(".csv")
    if not file.exists():
        require_free([how.output], force=how.force)
    console = asides()
    with console.status("measuring") as status:

        def say(line: str) -> None:
            if console.is_terminal:
                status.update(Text(line))
            else:
                console.print(line, soft_wrap=True)

        return await measure(
            engine, file, gpu=how.gpu, model=how.model, arguments=how.arguments, minutes=minutes, say=say
        )


def _fit_measured(target: Target, outcome: Outcome, how: How) -> None:
    """Fit the probes, and hold the sessions out."""
    observations = read_observations(outcome.file, lenient=True)
    probes = replace(observations, rows=tuple(row for row in observations.rows if row.kind != "turn"))
    fitted = fit_observations([probes], prior=how.prior, only_overheads=how.only_overheads)
    asides().print(
        f"{outcome.before + outcome.taken} measurements in {outcome.spent_s:.0f} s: {outcome.file}", soft_wrap=True
    )
    _finish(fitted, how)
    predicted = [
        predict(
            run,
            model=target.model,
            gpu=observations.header.gpu,
            engine=target.config,
            calibration=fitted.calibration,
            client_s=fitted.client_s,
        )
        for run in runs_of(observations.rows)
    ]
    for line in sessions_report(predicted):
        results().print(line, soft_wrap=True)
    warn(outcome.notes)


def sessions_report(runs: Sequence[PredictedRun]) -> list[str]:
    """How the held-out sessions were predicted, a line a run."""
    if not runs:
        return []
    lines = ["", "Multi-turn sessions (held out), predicted against measured:"]
    for run in runs:
        cached = "" if run.cached_error != run.cached_error else f", cached tokens {run.cached_error:+.1%}"
        lines.append(
            f"  {run.name}: {len(run.measured_e2e_s)} turns, mean E2E {run.measured_e2e_s.mean():.4g} s, "
            f"predicted {run.predicted_e2e_s.mean():.4g} s ({run.mean_error:+.1%}), single turns "
            f"{run.turn_error:.1%} off{cached}"
        )
    return lines


def _finish(fitted: Fitted, how: How) -> None:
    try:
        Path(how.output).write_text(to_toml(fitted.calibration), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=how.output, remedy="Check the folder") from None
    console = results()
    console.print(fitted.report(), soft_wrap=True)
    console.print(f"\nwritten: {how.output}", soft_wrap=True)
    warn(fitted.warnings)


def _argument(text: str) -> tuple[str, Any]:
    """An argument of ``vllm.LLM`` from NAME=VALUE; a value that is no JSON is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"{text!r} is no argument", field="vllm-arg", remedy="Write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
