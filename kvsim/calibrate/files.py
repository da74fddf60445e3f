"""Files of measurements of every kind, recognised by their content: :func:`read_files`."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, UnknownNameError
from ..step_logs import StepLog, read_log
from .measurements import COLUMNS, WORDS, Measurements, Table, read_table
from .observation_files import MAGIC, read_observations
from .observations import Observations
from .serving_load import Point

SERVING = ("model", "gpu", "input_len", "output_len", "concurrency", "request_rate", "ttft_ms", "tpot_ms")
"""Columns by which a table of serving points is known; tp, dtype, engine_version, e2e_ms and source are read too."""

_BENCHMARK = ("mean_ttft_ms", "mean_tpot_ms", "total_input_tokens", "completed")
"""Keys by which the result of ``vllm bench serve --save-result`` is known."""


@dataclass(frozen=True, slots=True)
class ServingPoint:
    """A point with the deployment that its file states, where it does."""

    point: Point
    model: str = ""
    gpu: str = ""
    tensor_parallel_size: int | None = None
    dtype: str = ""
    engine_version: str = ""


@dataclass
class Files:
    """What files hold, by kind. ``logs`` are those that :func:`kvsim.read` takes."""

    observations: list[Observations] = field(default_factory=list)
    step_logs: list[StepLog] = field(default_factory=list)
    tables: list[tuple[str, Table]] = field(default_factory=list)
    points: list[ServingPoint] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class FileTables(Measurements):
    """Kernel tables from single files, as the fits of kernel coefficients take them."""

    def __init__(self, tables: Sequence[tuple[str, Table]]) -> None:
        super().__init__(Path())
        for name, columns in {**COLUMNS, "mixed_attention_apart": COLUMNS["mixed_attention"]}.items():
            parts = [table for kind, table in tables if kind == name]
            self._tables[name] = Table(
                {
                    title: np.concatenate(
                        [np.array([], str if title in WORDS else np.float64), *(part[title] for part in parts)]
                    )
                    for title in ("gpu", "source", *columns, "us")
                }
            )


def read_files(paths: Sequence[str | Path], *, lenient: bool = False) -> Files:
    """Sort files, and those of folders, by what they hold, and read all but logs.

    Raises InputError naming the file, the line and the remedy for what cannot be read; with ``lenient`` broken rows are
    left out and counted.
    """
    found = Files()
    for path in _all(paths):
        head = _head(path)
        first = head.partition("\n")[0]
        if head.startswith(MAGIC):
            found.observations.append(read_observations(path, lenient=lenient))
        elif path.name.startswith("steps_") or '"ev": "init"' in first or '"ev":"init"' in first:
            found.step_logs.append(read_log(path))
        elif _is_csv(path):
            _read_csv(path, first, found, lenient)
        elif all(f'"{key}"' in head for key in _BENCHMARK):
            found.points += _benchmark(path)
        else:
            found.logs.append(str(path))
    return found


def _all(paths: Sequence[str | Path]) -> list[Path]:
    out: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            inside = sorted(path for path in given.rglob("*") if path.is_file() and path.suffix in _SUFFIXES)
            if not inside:
                raise InputError("no measurements in the folder", file=str(given), remedy="Name the files.")
            out += inside
        elif given.exists():
            out.append(given)
        else:
            raise InputError("no such file", file=str(given), remedy="Check the path.")
    return list(dict.fromkeys(out))


_SUFFIXES = (".csv", ".jsonl", ".json", ".gz")


def _head(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(1 << 16).decode("utf-8", "replace")
    except (OSError, EOFError) as error:
        raise InputError(f"cannot be read: {error}", file=str(path), remedy="Check the file.") from error


def _is_csv(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".csv")


def _read_csv(path: Path, first: str, found: Files, lenient: bool) -> None:
    names = next(csv.reader([first]), [])
    for kind, columns in COLUMNS.items():
        if {"gpu", "us", *columns} <= set(names):
            found.tables.append((kind, read_table(path, kind)))
            return
    if not set(SERVING) <= set(names):
        raise InputError(
            "is no table of measurements",
            file=str(path),
            line=1,
            remedy=f"Give observations (first line {MAGIC!r}), a kernel table, or serving points with columns "
            + ", ".join(SERVING)
            + ".",
        )
    left_out = 0
    for number, row in enumerate(csv.DictReader(io.StringIO(_text(path))), 2):
        point = _serving_point(row, path, number, lenient)
        left_out += point is None
        found.points += [point] if point else []
    if left_out:
        found.warnings.append(f"{path}: {left_out} rows left out: without lengths, load or times")


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def _serving_point(row: Mapping[str, str], path: Path, line: int, lenient: bool) -> ServingPoint | None:
    """A row; None where it lacks what a simulation needs."""

    def number(name: str) -> float | None:
        cell = (row.get(name) or "").strip()
        if not cell:
            return None
        try:
            value = float(cell)
        except ValueError:
            value = -1.0
        if value < 0 or value != value:
            if lenient:
                return None
            raise InputError(
                f"{cell!r} is no number of at least 0", file=str(path), line=line, field=name, remedy="Correct it."
            )
        return value

    lengths = number("input_len"), number("output_len")
    load = number("concurrency"), number("request_rate")
    times = [number(name) for name in ("ttft_ms", "tpot_ms", "e2e_ms")]
    if not all(lengths) or not any(load) or not any(times):
        return None
    seconds = [value / 1e3 if value else None for value in times]
    tensor_parallel = number("tp")
    return ServingPoint(
        Point(
            f"{path}:{line}",
            int(lengths[0] or 1),
            int(lengths[1] or 1),
            concurrency=int(load[0]) if load[0] else None,
            request_rate=None if load[0] else load[1],
            ttft_s=seconds[0],
            tpot_s=seconds[1],
            e2e_s=seconds[2],
        ),
        model=row["model"],
        gpu=row["gpu"],
        tensor_parallel_size=int(tensor_parallel) if tensor_parallel else None,
        dtype=row.get("dtype") or "",
        engine_version=row.get("engine_version") or "",
    )


def _benchmark(path: Path) -> list[ServingPoint]:
    """A result file of vLLM's own benchmark: one object, or one a line."""
    text = _text(path)
    out = []
    for number, part in enumerate([text] if text.count("\n{") == 0 else text.splitlines(), 1):
        if not part.strip():
            continue
        try:
            data: dict[str, Any] = json.loads(part)
            requests = int(data["completed"])
            rate = float(data.get("request_rate") or "inf")
            at_once = data.get("max_concurrency")
            out.append(
                ServingPoint(
                    Point(
                        f"{path}:{number}",
                        max(1, round(data["total_input_tokens"] / requests)),
                        max(1, round(data["total_output_tokens"] / requests)),
                        concurrency=int(at_once) if at_once and rate == float("inf") else None,
                        request_rate=None if at_once and rate == float("inf") else rate,
                        requests=requests,
                        ttft_s=float(data["mean_ttft_ms"]) / 1e3,
                        tpot_s=float(data["mean_tpot_ms"]) / 1e3,
                    ),
                    model=str(data.get("model_id") or ""),
                )
            )
        except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
            raise InputError(
                f"is no result of 'vllm bench serve' ({error!r})",
                file=str(path),
                line=number,
                remedy="Write it with --save-result.",
            ) from None
    return out


def same_gpu(named: str, gpu: str) -> bool:
    """Whether a name in a file means the GPU; where none is named, it does."""
    from ..hardware import gpu as find_gpu

    try:
        return not named or find_gpu(named).id == gpu
    except UnknownNameError:
        return False
