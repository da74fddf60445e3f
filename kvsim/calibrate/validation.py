"""Predictions of every serving point, by the law that was fitted on it and by one that had not seen its model.

Points of a benchmark's closed loop are simulated as the benchmark ran (:mod:`.closed_loop`); the others are steps or
static batches, in closed form.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..hardware import gpu
from ..law import device_of
from ..validation import COLUMNS
from .closed_loop import closed_loops
from .measurements import Table
from .robust import Array, next_model
from .serving import engine_of, expectations, fits_in_memory, with_scales

if TYPE_CHECKING:
    from ..calibration import Regime
    from .fit import Study

UNQUEUED = 4
"""Up to so many clients in a closed loop hardly ever wait for each other."""

FEWEST = 8
"""Held-out points below which other models' errors give no interval."""


class Predicted(NamedTuple):
    """Seconds of each row: what its measure says, and to the first token (NaN where not simulated)."""

    measure_s: Array
    ttft_s: Array


def predicted(study: Study, name: str, rows: Table, fitted: Mapping[str, float]) -> Predicted:
    """What a law with these overheads (and scales) predicts for a GPU's serving rows."""
    values = with_scales(study.values(name), fitted)
    loops = closed_loops(rows, gpu(name), values)
    expected = expectations(rows, values, device_of(gpu(name)))
    measure = [one if loop is None else loop.tpot_s for loop, one in zip(loops, expected.tolist(), strict=True)]
    ttft = [float("nan") if loop is None else loop.ttft_s for loop in loops]
    return Predicted(np.array(measure), np.array(ttft))


class Parts(NamedTuple):
    """Serving rows of one engine generation with predictions fitted and held out, and time outside of steps."""

    rows: Table
    fitted: Predicted
    held_out: Predicted
    request_s: float
    request_apart_s: Mapping[str, float]


def parts_of(study: Study, name: str, engine: str) -> Parts:
    """All rows of an engine generation that has overheads of this GPU, also those that were left out of the fit."""
    table = study.measurements.table("serving", name)
    its = [engine_of(*pair) == engine for pair in zip(table["source"].tolist(), table["engine"].tolist(), strict=True)]
    rows = table.where(np.array(its))
    result = study.overheads(name)[engine].result
    fitted = predicted(study, name, rows, result.values)
    held = Predicted(np.full(len(rows), np.nan), np.full(len(rows), np.nan))
    models = rows["model"]
    for model in sorted(set(models.tolist())):
        its_rows = models == model
        values = result.apart.get(model, result.values)  # of a model that was left out all points are held out
        apart = predicted(study, name, rows.where(its_rows), values)
        held.measure_s[its_rows], held.ttft_s[its_rows] = apart.measure_s, apart.ttft_s
    known = _usual(rows) & np.isfinite(rows["ttft_s"]) & (rows["concurrency"] <= UNQUEUED) & np.isfinite(held.ttft_s)
    rest = rows["ttft_s"] - held.ttft_s

    def outside_s(of: np.ndarray) -> float:
        return max(0.0, float(np.median(rest[known & of]))) if (known & of).any() else 0.0

    whole = outside_s(np.ones(len(rows), bool))
    return Parts(rows, fitted, held, whole, {model: outside_s(models != model) for model in set(models.tolist())})


def _usual(rows: Table) -> np.ndarray:
    """Rows of deployments that take the way the law prices."""
    return np.asarray((rows["path"] == "") & (rows["expert_parallel"] == 1))


def points(study: Study, name: str) -> list[dict[str, object]]:
    """A GPU's points in the columns of :data:`kvsim.validation.COLUMNS`."""
    out: list[dict[str, object]] = []
    for engine in study.overheads(name):
        part = study.parts(name, engine)
        rows = part.rows
        fitting = fits_in_memory(rows, gpu(name).memory_bytes)
        for row in range(len(rows)):
            about = {column: rows[column][row] for column in rows.columns if column in COLUMNS}
            model = str(rows["model"][row])
            about |= {"generation": engine, "path": _path(rows, row, bool(fitting[row]))}
            prefills = rows["measure"][row] == "batch" and rows["output_tokens"][row] <= 1
            out.append(
                about
                | {
                    "regime": "prefill" if prefills else "decode",
                    "measured_s": rows["seconds"][row],
                    "fitted_s": part.fitted.measure_s[row],
                    "held_out_s": part.held_out.measure_s[row],
                }
            )
            if np.isfinite(rows["ttft_s"][row]) and np.isfinite(part.fitted.ttft_s[row]):
                out.append(
                    about
                    | {
                        "measure": "ttft",
                        "regime": "prefill" if rows["concurrency"][row] <= UNQUEUED else "queued",
                        "measured_s": rows["ttft_s"][row],
                        "fitted_s": part.fitted.ttft_s[row] + part.request_s,
                        "held_out_s": part.held_out.ttft_s[row] + part.request_apart_s[model],
                    }
                )
    with_intervals(out)
    return out


def _path(rows: Table, row: int, fits: bool) -> str:
    """What sets a point apart, in words; empty where nothing does."""
    spread = "experts spread over ranks" if rows["expert_parallel"][row] != 1 else ""
    in_turns = "static batch beyond memory" if rows["measure"][row] == "batch" and not fits else ""
    return ", ".join(part for part in (str(rows["path"][row]), spread, in_turns) if part)


def with_intervals(points: Sequence[dict[str, object]]) -> None:
    """Give each point the ends of where the other models' held-out errors would put 90 % of measured times; NaN where
    they are too few. Points of one GPU."""
    kinds: dict[tuple[str, str], list[dict[str, object]]] = {}
    for point in points:
        kinds.setdefault((str(point["regime"]), str(point["generation"])), []).append(point)
    for its in kinds.values():
        errors = _by_model(its)
        ends = {}
        for model in {str(point["model"]) for point in its}:
            others = {name: part for name, part in errors.items() if name != model}
            enough = sum(map(len, others.values())) >= FEWEST
            ends[model] = next_model(others) if enough else (float("nan"),) * 3
        for point in its:
            low, _, high = ends[str(point["model"])]
            point["low_s"] = _number(point["held_out_s"]) * math.exp(low)
            point["high_s"] = _number(point["held_out_s"]) * math.exp(high)


def held_out_errors(study: Study, name: str, regime: Regime) -> dict[str, Array]:
    """log(measured / held-out prediction) of a GPU's serving points of a regime, by model: of the newest engine
    generation that has enough points."""
    rows = [row for row in study.points(name) if row["regime"] == regime]
    for generation in sorted({str(row["generation"]) for row in rows}, reverse=True):
        errors = _by_model(row for row in rows if row["generation"] == generation)
        if sum(map(len, errors.values())) >= FEWEST:
            return errors
    return {}


def _by_model(rows: Iterable[Mapping[str, object]]) -> dict[str, Array]:
    """log(measured / held-out prediction) of the usual points, by model."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        if not row["path"]:
            error = float(np.log(_number(row["measured_s"]) / _number(row["held_out_s"])))
            errors.setdefault(str(row["model"]), []).append(error)
    return {model: np.array(part) for model, part in errors.items()}


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]


def to_csv(rows: Iterable[Mapping[str, object]]) -> bytes:
    """The points as gzipped CSV; the same rows make the same bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row[name]) for name in COLUMNS})
    return gzip.compress(text.getvalue().encode(), 9, mtime=0)


def _cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, (float, np.floating)) else str(value)
