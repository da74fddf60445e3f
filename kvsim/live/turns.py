"""Measured multi-turn sessions predicted by a calibration: held out of its fit, they say how good it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kvsim.architecture import Architecture
from kvsim.calibrate.observations import Observation
from kvsim.calibration import Calibration
from kvsim.engine import EngineConfig
from kvsim.hardware import Gpu
from kvsim.simulation import simulate
from kvsim.trajectory import Batch

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of sessions: its turns by session and turn."""

    name: str
    sessions: tuple[tuple[Observation, ...], ...]

    @property
    def turns(self) -> list[Observation]:
        """All turns, session by session."""
        return [turn for session in self.sessions for turn in session]


@dataclass(frozen=True)
class PredictedRun:
    """A run as measured and as predicted, a value a turn; cached_tokens -1 where the engine did not tell."""

    name: str
    measured_e2e_s: FloatArray
    predicted_e2e_s: FloatArray
    measured_ttft_s: FloatArray
    predicted_ttft_s: FloatArray
    measured_cached: npt.NDArray[np.int64]
    predicted_cached: npt.NDArray[np.int64]

    @property
    def mean_error(self) -> float:
        """Of the mean E2E, predicted over measured, less one."""
        return float(self.predicted_e2e_s.mean() / self.measured_e2e_s.mean()) - 1

    @property
    def turn_error(self) -> float:
        """The mean absolute error of single turns' E2E, as a fraction."""
        return float(np.abs(self.predicted_e2e_s / self.measured_e2e_s - 1).mean())

    @property
    def cached_error(self) -> float:
        """Of the sum of cached tokens over the sum of measured ones; NaN where unknown."""
        known = self.measured_cached >= 0
        measured = int(self.measured_cached[known].sum())
        return float(self.predicted_cached[known].sum()) / measured - 1 if measured else float("nan")


def runs_of(rows: Iterable[Observation]) -> list[Run]:
    """The whole, undisturbed runs of sessions among observations."""
    found: dict[tuple[str, int | None], dict[str, list[Observation]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.kind == "turn":
            found[row.probe, row.repeat][row.trajectory].append(row)
    runs = []
    for (probe, repeat), sessions in found.items():
        turns = [sorted(session, key=lambda row: row.turn or 0) for session in sessions.values()]
        whole = sum(map(len, turns)) == planned_turns(probe)
        if whole and not any(row.flag for session in turns for row in session):
            runs.append(Run(f"{probe}/{repeat}", tuple(map(tuple, turns))))
    return runs


def planned_turns(name: str) -> int:
    """How many turns a whole run of sessions has, from its name."""
    sessions, _, turns = name.rpartition("/")[2].partition("x")
    return int(sessions) * int(turns)


def predict(
    run: Run,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    engine: EngineConfig,
    calibration: str | Path | Calibration,
    client_s: tuple[float, float] = (0.0, 0.0),
    backend: str = "auto",
) -> PredictedRun:
    """Serve a run's turns on the simulated engine: lengths, pauses and starts as measured, all else predicted.

    client_s: what the client's way to the engine and back adds to a request: seconds, and seconds a prompt token.
    """
    turns = run.turns
    prompts = _numbers(turn.prompt_tokens for turn in turns)
    client = client_s[0] + client_s[1] * prompts
    served = simulate(
        batch_of(run.sessions, client),
        model=model,
        gpu=gpu,
        engine=engine,
        calibration=calibration,
        backend=backend,
    ).served
    return PredictedRun(
        run.name,
        _numbers(turn.e2e_s for turn in turns),
        (served.finish_ns - served.release_ns) / 1e9 + client,
        _numbers(turn.ttft_s for turn in turns),
        (served.first_token_ns - served.release_ns) / 1e9 + client,
        np.array([-1 if turn.cached_tokens is None else turn.cached_tokens for turn in turns], np.int64),
        served.cached_tokens,
    )


def batch_of(sessions: Sequence[Sequence[Observation]], client_s: FloatArray) -> Batch:
    """Measured turns as a batch; a turn's client part stands before it, since the next one waits for it too."""
    parent: list[int] = []
    arrival: list[int] = []
    pause: list[int] = []
    trajectory: list[int] = []
    for number, session in enumerate(sessions):
        for index, turn in enumerate(session):
            row = len(parent)
            parent.append(row - 1 if index else -1)
            pause.append(round(1e9 * ((turn.pause_s or 0.0) + client_s[row])) if index else 0)
            arrival.append(-1 if index else round(1e9 * ((turn.arrival_s or 0.0) + client_s[row])))
            trajectory.append(number)
    turns = [turn for session in sessions for turn in session]
    first = min(time for time in arrival if time >= 0)
    return Batch.from_columns(
        parent=parent,
        kept_tokens=[turn.kept_tokens or 0 for turn in turns],
        prompt_tokens=[turn.prompt_tokens or 1 for turn in turns],
        output_tokens=[turn.output_tokens or 1 for turn in turns],
        pause_ns=pause,
        arrival_ns=[time - first if time >= 0 else 0 for time in arrival],
        trajectory=trajectory,
        prefix=[-1 if turn.turn or not turn.kept_tokens else 0 for turn in turns],
    )


def _numbers(values: Iterable[float | int | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
