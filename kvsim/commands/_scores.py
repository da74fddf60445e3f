"""Success labels from a file: ``id`` and ``score`` of each trajectory, and its ``task`` where it says so."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from kvsim.errors import InputError
from kvsim.logs.source import Source


class Label(NamedTuple):
    """What a trajectory achieved, and at which task; empty where the file does not say."""

    score: float
    task: str


def read_scores(path: str) -> dict[str, Label]:
    """Labels by trajectory: CSV with a header, or JSON lines; plain or gzipped.

    Raises :class:`InputError` naming file and line of a row without id or score, and of an id that comes twice.
    """
    found: dict[str, Label] = {}
    for line, row in _rows(path):
        id, score = row.get("id"), _number(row.get("score"))
        if id in (None, ""):
            raise InputError("is missing", file=path, line=line, field="id", remedy="Give id,score[,task]")
        if score is None:
            problem = f"{row.get('score')!r} is no number"
            raise InputError(problem, file=path, line=line, field="score", remedy="Give a number, true or false")
        if str(id) in found:
            raise InputError(f"{id!r} has a score already", file=path, line=line, field="id", remedy="Keep one row")
        found[str(id)] = Label(score, str(row.get("task") or ""))
    if not found:
        raise InputError("holds no score", file=path, remedy="Give id,score[,task], a trajectory a row")
    return found


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = ((text.line, text.data.decode("utf-8", "replace")) for text in Source(path).lines())
    filled = [(line, text) for line, text in lines if text.strip()]
    if filled and filled[0][1].lstrip().startswith("{"):
        for line, text in filled:
            try:
                row = msgspec.json.decode(text)
            except msgspec.DecodeError as error:
                raise InputError(f"is no JSON: {error}", file=path, line=line, remedy="Correct it") from None
            yield line, row if isinstance(row, dict) else {}
        return
    head = next(csv.reader([filled[0][1]]), []) if filled else []
    names = [name.strip() for name in head]
    for line, text in filled[1:]:
        yield line, dict(zip(names, next(csv.reader([text])), strict=False))


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
