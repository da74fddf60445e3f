"""Predictions of every serving point, by the law that was fitted on it and by one that had not seen its model.

Points of a benchmark's closed loop are simulated as the benchmark ran (:mod:`.closed_loop`); the others are steps or
static batches, in closed form.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from ..hardware import gpu
from ..law import device_of
from ..validation import COLUMNS
from .client import UNQUEUED
from .closed_loop import closed_loops
from .measurements import Table
from .robust import Array, next_group
from .serving import engine_of, expectations, fits_in_memory, with_scales

if TYPE_CHECKING:
    from ..calibration import Regime
    from .study import Study

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
    """Serving rows of one engine generation with predictions fitted and held out."""

    rows: Table
    fitted: Predicted
    held_out: Predicted


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
    return Parts(rows, fitted, held)


def points(study: Study, name: str) -> list[dict[str, object]]:
    """A GPU's points in the columns of :data:`kvsim.validation.COLUMNS`, without intervals."""
    out: list[dict[str, object]] = []
    for engine in study.overheads(name):
        part = study.parts(name, engine)
        rows = part.rows
        fitting = fits_in_memory(rows, gpu(name).memory_bytes)
        for row in range(len(rows)):
            about = {column: rows[column][row] for column in rows.columns if column in COLUMNS}
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
                whole, apart = study.way(name, engine, rows, row)
                prompt = float(rows["prompt_tokens"][row])
                out.append(
                    about
                    | {
                        "measure": "ttft",
                        "regime": "prefill" if rows["concurrency"][row] <= UNQUEUED else "queued",
                        "measured_s": rows["ttft_s"][row],
                        "fitted_s": part.fitted.ttft_s[row] + whole.seconds(prompt),
                        "held_out_s": part.held_out.ttft_s[row] + apart.seconds(prompt),
                    }
                )
    return out


def _path(rows: Table, row: int, fits: bool) -> str:
    """What sets a point apart, in words; empty where nothing does."""
    spread = "experts spread over ranks" if rows["expert_parallel"][row] != 1 else ""
    in_turns = "static batch beyond memory" if rows["measure"][row] == "batch" and not fits else ""
    return ", ".join(part for part in (str(rows["path"][row]), spread, in_turns) if part)


Errors: TypeAlias = dict[tuple[str, str], Array]
"""log(measured / held-out prediction) by GPU and model."""


def with_intervals(study: Study, name: str) -> list[dict[str, object]]:
    """A GPU's points with the ends of where the held-out errors of other models, on this GPU and on the others, would
    put 90 % of measured times; NaN where those are too few."""
    points, ends = study.points(name), {}
    for point in points:
        kind = str(point["regime"]), str(point["generation"]), str(point["model"])
        if kind not in ends:
            errors = study.errors(name, kind[0], kind[1])
            others = [part for (_, model), part in errors.items() if model != kind[2]]
            enough = sum(map(len, others)) >= FEWEST
            ends[kind] = next_group(others) if enough else (float("nan"),) * 3
    return [
        point
        | {
            "low_s": _number(point["held_out_s"]) * math.exp(low),
            "high_s": _number(point["held_out_s"]) * math.exp(high),
        }
        for point in points
        for low, _, high in (ends[str(point["regime"]), str(point["generation"]), str(point["model"])],)
    ]


def held_out_errors(study: Study, name: str, regime: Regime) -> list[Array]:
    """Errors of a regime by GPU and model, on GPUs like this one, of the newest engine generation that the GPU has
    enough points of; none if it has too few of each."""
    own = [point for point in study.points(name) if point["regime"] == regime and not point["path"]]
    counts = Counter(str(point["generation"]) for point in own)
    for generation in sorted(counts, reverse=True):
        if counts[generation] >= FEWEST:
            return list(study.errors(name, regime, generation).values())
    return []


def errors_of(points: Iterable[Mapping[str, object]], regime: str, generation: str) -> Errors:
    """Errors of the usual points of a regime and generation."""
    found: dict[tuple[str, str], list[float]] = {}
    for point in points:
        if not point["path"] and (point["regime"], point["generation"]) == (regime, generation):
            error = float(np.log(_number(point["measured_s"]) / _number(point["held_out_s"])))
            found.setdefault((str(point["gpu"]), str(point["model"])), []).append(error)
    return {key: np.array(part) for key, part in found.items()}


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
